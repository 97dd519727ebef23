"""The objectives there are, in the order of the sum; a new one gets a line here."""

from harmopower.objectives.global_contrastive import GlobalContrastive
from harmopower.objectives.global_region import GlobalRegion
from harmopower.objectives.global_triplet import GlobalTriplet
from harmopower.objectives.lexeme_region import LexemeRegion
from harmopower.objectives.powerset import Powerset

OBJECTIVES = (
    GlobalContrastive,
    LexemeRegion,
    GlobalRegion,
    Powerset,
    GlobalTriplet,
)  # fmt: skip
