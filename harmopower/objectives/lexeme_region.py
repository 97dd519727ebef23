"""LRC, HarmoCLIP's lexeme-region contrast: a region against the words that name it (METHOD section 5)."""

from harmopower.features import phrases
from harmopower.objectives import contrastive, region
from harmopower.objectives.objective import Needs, Objective, flat_rows, valid_pairs

SCALE = "region_scale"  # as the first checkpoints call it


class LexemeRegion(Objective):
    """Regions against lexemes. Lexemes come from the caption's own pass.

    Where the data have regions with a text and no span in the caption, which the batch tells by `box_alone`, these
    add a second text pass.
    """

    name = "lexeme_region"

    def needs(self):
        """Regions, the caption's phrases, and which of them are equal."""
        return Needs(regions=True, phrases=True, groups=True, alone_text=True)

    def features(self, towers, shared):
        """`lexemes` [B, M, D] L2-normalised, and their `mask` [B, M]: the region has a lexeme."""
        batch, own = towers.batch, ()
        if "box_alone" in batch:
            own = towers.region_text, towers.region_text_content & batch["box_alone"][..., None]
        lexemes, mask = phrases.pool_lexemes(towers.text.tokens, batch["phrases"], batch["box_phrase"], *own)
        return {"lexemes": lexemes, "mask": mask}

    def loss(self, features, scales, rng):
        """See `region.pair_loss`; `active` is the share of the regions that have a pair."""
        own = features.own[self.name]
        valid = valid_pairs(features, own["mask"])
        rows = (flat_rows(array) for array in (features.regions, own["lexemes"], valid, features.group))
        loss, metrics = region.pair_loss(
            *rows,
            region.scale_of(self.settings, scales, SCALE),
            duplicates=self.settings.duplicates,
            communication=self.communication,
        )
        return loss, metrics | region.share(valid, features.region_mask)

    def guest(self, features):
        """The regions."""
        return flat_rows(features.regions)

    def scales(self):
        """One, where it has a temperature of its own."""
        return region.own_scale(self.settings, SCALE)

    def flops(self, sizes, hardware=False):
        """Pairs of all regions."""
        return contrastive.pair_flops(sizes.batch * sizes.regions, sizes.width, hardware)

    def pooled(self, sizes):
        """Every token of the caption for every region."""
        return sizes.regions * sizes.tokens
