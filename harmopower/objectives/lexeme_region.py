"""LRC, HarmoCLIP's lexeme-region contrast: a region against the words that name it (METHOD section 5)."""

from jaxtyping import PRNGKeyArray

from harmopower.arrays import AnyArray
from harmopower.features import phrases
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

SCALE = "region_scale"  # as the first checkpoints call it


class LexemeRegion(Objective):
    """Regions against lexemes. Lexemes come from the caption's own pass.

    Where the data have regions with a text and no span in the caption, which the batch tells by `box_alone`, these
    add a second text pass.
    """

    name = "lexeme_region"

    def needs(self) -> Needs:
        """Regions, the caption's phrases, and which of them are equal."""
        return Needs(regions=True, phrases=True, groups=True, alone_text=True)

    def features(self, towers: Towers, shared: Features) -> dict[str, AnyArray]:
        """`lexemes` [B, M, D] L2-normalised, and their `mask` [B, M]: the region has a lexeme."""
        batch, own = towers.batch, ()
        if "box_alone" in batch:
            own = towers.region_text.tokens, towers.region_text_content & batch["box_alone"][..., None]
        lexemes, mask = phrases.pool_lexemes(towers.text.tokens, batch["phrases"], batch["box_phrase"], *own)
        return {"lexemes": lexemes, "mask": mask}

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """See `region.pair_loss`; `active` is the share of the regions that have a pair."""
        own = features.own[self.name]
        valid = valid_pairs(features, own["mask"])
        loss, metrics = region.pair_loss(
            flat_rows(features.regions),
            flat_rows(own["lexemes"]),
            flat_rows(valid),
            flat_rows(features.group),
            region.scale_of(self.settings, scales, SCALE),
            duplicates=self.settings.duplicates,
            communication=self.communication,
        )
        return loss, metrics | region.share(valid, features.region_mask)

    def guest(self, features: Features) -> AnyArray:
        """The regions."""
        return flat_rows(features.regions)

    def scales(self) -> tuple[Scale, ...]:
        """One, where it has a temperature of its own."""
        return region.own_scale(self.settings, SCALE)

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Pairs of all regions."""
        return contrastive.pair_flops(sizes.batch * sizes.regions, sizes.width, hardware)

    def pooled(self, sizes: Sizes) -> int:
        """Every token of the caption for every region."""
        return sizes.regions * sizes.tokens
