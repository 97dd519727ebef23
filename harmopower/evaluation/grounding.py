"""Phrases and boxes without training: where a phrase points to, and which box it means."""

import math

import numpy as np

DEPTHS = (1, 5, 10)
OVERLAP = 0.5  # intersection over union from which a box is the right one, as everywhere on Flickr30k Entities


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [m, 4] and [k, 4], y0, x0, y1, x1: [m, k]; 0 where both are empty."""
    start = np.maximum(boxes[:, None, :2], others[None, :, :2])
    end = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (end - start).clip(0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(-1) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def merged(boxes: np.ndarray) -> np.ndarray:
    """The one box [4] around boxes [m, 4]."""
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def before(scores: np.ndarray, right: np.ndarray) -> int:
    """How many wrong candidates come before the best right one; a tie and NaN count against it.

    Args:
      scores: [n] and right: bool [n], at least one of them.
    """
    return int((~(scores[~right] < scores[right].max())).sum())


def chance(right: int, candidates: int, depth: int) -> float:
    """The probability that one of the right ones is among the first `depth` of a random order."""
    depth = min(depth, candidates)
    return 1 - math.comb(candidates - right, depth) / math.comb(candidates, depth)


def inside(grid: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """Which patches of a grid of rows and columns have their middle in one of the boxes [m, 4]: bool [patches]."""
    down, across = _middles(grid)
    rows = (boxes[:, :1] <= down) & (down <= boxes[:, 2:3])
    columns = (boxes[:, 1:2] <= across) & (across <= boxes[:, 3:])
    return (rows[:, :, None] & columns[:, None, :]).any(0).reshape(-1)


def cells(grid: tuple[int, int]) -> np.ndarray:
    """A box within each patch, half as wide, so that its neighbours are not touched: float32 [patches, 4]."""
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(*_middles(grid), indexing="ij"))
    down, across = (0.25 / size for size in grid)
    return np.stack([rows - down, columns - across, rows + down, columns + across], 1).astype(np.float32)


def _middles(grid: tuple[int, int]) -> list[np.ndarray]:
    return [(np.arange(size) + 0.5) / size for size in grid]
