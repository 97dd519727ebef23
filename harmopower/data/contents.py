"""What the records of a data set can give the objectives, seen from a sample of them when the set is opened."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

LOOKED_AT = 128


class Contents(NamedTuple):
    """What a sample of records has.

    Attributes:
      looked_at, examples: how many records were read, of how many.
      regions: one of them has a region.
      texts: one of them has a region with a text: a span, a text of its own, or a label.
      texts_alone: one of them has a region with a text and no span.
      texts_beside: one of them has a region with a text of its own or a label, with a span or without.
    """

    looked_at: int
    examples: int
    regions: bool
    texts: bool
    texts_alone: bool
    texts_beside: bool

    @property
    def complete(self) -> bool:
        """Every record was read, so that what was not found is not there."""
        return self.looked_at == self.examples


def join(found: Iterable[Contents]) -> Contents:
    """What several data sets have together."""
    looked_at, examples, *has = zip(*found, strict=True)
    return Contents(sum(looked_at), sum(examples), *map(any, has))


def look(source) -> Contents:
    """Reads at most `LOOKED_AT` records, evenly spaced, the same ones on every host.

    Args:
      source: random access to examples, see `records.read`.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), LOOKED_AT)).round().astype(int))
    regions = [region for index in chosen for region in source[int(index)]["regions"]]
    spans = [region["caption"] >= 0 for region in regions]
    own = [bool(region["text"].strip() or region["label"].strip()) for region in regions]
    return Contents(
        looked_at=len(chosen),
        examples=len(source),
        regions=bool(regions),
        texts=any(spans) or any(own),
        texts_alone=any(text and not span for text, span in zip(own, spans, strict=True)),
        texts_beside=any(own),
    )
