"""Boxes that lie over each other."""

import numpy as np


def ratios(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box `[4]` with others `[N, 4]`; of two empty ones 0."""
    corner = np.maximum(box[:2], others[:, :2])
    shared = np.clip(np.minimum(box[2:], others[:, 2:]) - corner, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + areas - shared
    return np.divide(shared, union, out=np.zeros(len(others)), where=union > 0)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> list[int]:
    """Non-maximum suppression, greedy: the best box stays and drops those that overlap it by more than `threshold`.

    Args:
      boxes: `[N, 4]`, two corners each, in any unit.
      scores: `[N]`; of equal ones the earlier is the better.
      most: boxes that are kept at most.

    Returns:
      Which ones, the best first.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    waiting, kept = np.argsort(-np.asarray(scores, np.float64), kind="stable"), []
    while len(waiting) and len(kept) < most:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[ratios(boxes[best], boxes[waiting]) <= threshold]
    return kept
