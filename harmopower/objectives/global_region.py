"""GR, HarmoCLIP's global-region alignment: a region against its whole text, or its own crop (METHOD section 5).

Who encodes the crops, and how many at once, training/teacher.py says.
"""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from harmopower.arrays import AnyArray
from harmopower.features.vectors import normalise
from harmopower.objectives import contrastive, region
from harmopower.objectives.objective import (
    Features,
    Loss,
    Needs,
    Objective,
    Scalars,
    Scale,
    Sizes,
    Towers,
    flat_rows,
    valid_pairs,
)

SCALE = "global_region_scale"


class GlobalRegion(Objective):
    """The first R regions, those whose texts are encoded, against the pooled embeddings of these texts, or the first C
    against the embeddings of their crops."""

    name = "global_region"

    def needs(self) -> Needs:
        """Regions, which of them are equal, and a pass over their texts or crops."""
        if self.settings.mode == "text":
            return Needs(regions=True, groups=True, region_text=True)
        of_crops = {name: self.settings[name] for name in ("teacher", "crop_chunk", "crop_size")}
        return Needs(regions=True, groups=True, crops=True, **of_crops)

    def features(self, towers: Towers, shared: Features) -> dict[str, AnyArray]:
        """`targets` [B, R, D], or of crops [B, C, D], L2-normalised, and their `mask`: the region has one."""
        if self.settings.mode == "crop":
            if towers.crops is None:
                raise ValueError("objective.global_region.mode is 'crop' but no crop embeddings were given")
            mask = shared.region_mask[:, : towers.crops.shape[1]]
            return {"targets": normalise(towers.crops, mask), "mask": mask}
        mask = jnp.any(towers.region_text_content, axis=-1)
        return {"targets": normalise(towers.region_text.pooled, mask), "mask": mask}

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """See `region.pair_loss` and `region.crop_loss`; `active` is the share of the regions that have a pair."""
        own = features.own[self.name]
        valid = valid_pairs(features, own["mask"])
        count = valid.shape[1]  # the other regions would only be padding in a loss of B M x B M
        phi, group = features.regions[:, :count], features.group[:, :count]
        if self.settings.mode == "crop":
            loss, metrics = region.crop_loss(phi, own["targets"], valid)
        else:
            loss, metrics = region.pair_loss(
                flat_rows(phi),
                flat_rows(own["targets"]),
                flat_rows(valid),
                flat_rows(group),
                region.scale_of(self.settings, scales, SCALE),
                duplicates=self.settings.duplicates,
                communication=self.communication,
            )
        return loss, metrics | region.share(valid, features.region_mask)

    def guest(self, features: Features) -> AnyArray | None:
        """The regions whose texts are encoded; a crop stays where its region is."""
        count = features.own[self.name]["mask"].shape[1]
        return None if self.settings.mode == "crop" else flat_rows(features.regions[:, :count])

    def scales(self) -> tuple[Scale, ...]:
        """One, where it has a temperature of its own."""
        return region.own_scale(self.settings, SCALE)

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Pairs of the regions whose texts are encoded; crops meet their own region alone, which is no product."""
        if self.settings.mode == "crop":
            return 0.0
        return contrastive.pair_flops(sizes.batch * sizes.text_rows, sizes.width, hardware)
