"""Composition: does the model prefer the caption to one that differs in a single fact?"""

from collections.abc import Iterable

import numpy as np

KINDS = ("swap_attribute", "swap_object", "replace_attribute", "replace_object", "replace_relation")


def accuracy(images: np.ndarray, captions: np.ndarray, negatives: np.ndarray, kinds: list[str]) -> dict[str, float]:
    """Accuracy for each kind of negative, and the mean of the kinds.

    Right means that the image is strictly more similar to its caption than to the negative. A tie counts as wrong: a
    model that cannot tell the two apart has not answered (our choice).

    Args:
      images, captions, negatives: [P, D] L2-normalised, one row a negative.
      kinds: P names; those that are not in `KINDS` come after them, in alphabetical order.
    """
    of_row = np.asarray(kinds)
    right = (images * captions).sum(axis=-1) > (images * negatives).sum(axis=-1)
    found = {kind: float(right[of_row == kind].mean()) for kind in order(kinds)}
    return found | {"mean": float(np.mean(list(found.values())))}


def chance(kinds: Iterable[str]) -> dict[str, float]:
    """One in two, for each metric of `accuracy`."""
    return dict.fromkeys([*order(kinds), "mean"], 0.5)


def order(kinds) -> list[str]:
    """The distinct kinds, those of `KINDS` first."""
    there = {str(kind) for kind in kinds}
    return [kind for kind in KINDS if kind in there] + sorted(there - set(KINDS))
