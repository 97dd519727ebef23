"""Ranks and hit rates: the arithmetic that retrieval and classification share."""

import numpy as np


def ranks(scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """How many candidates come before the right one, per query.

    A tie counts against the query, and so does NaN: a model that gives every input the same embedding, or a broken one,
    must not look right (our choice).

    Args:
      scores: [Q, C], similarity of each query to each candidate.
      answers: int [Q], the right candidate.

    Returns:
      int [Q] in 0..C-1; 0 = the right one is first.
    """
    right = np.take_along_axis(scores, np.asarray(answers)[:, None], axis=1)
    return (~(right > scores)).sum(axis=1) - 1  # it never beats itself, hence - 1


def hit_rate(rank: np.ndarray, k: int) -> float:
    """The share of queries whose right candidate is among the first `k`."""
    return float((rank < k).mean())


def chance(k: int, candidates: int) -> float:
    """The hit rate among the first `k` of a random order."""
    return min(k / candidates, 1.0)
