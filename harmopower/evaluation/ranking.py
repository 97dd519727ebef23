"""Ranks and hit rates: the arithmetic that retrieval and classification share."""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 64 << 20  # of similarities that are looked at together


def blocks(queries: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The similarities of all queries to all candidates, some queries at a time, so that memory stays small.

    Args:
      queries: [Q, D] and candidates: [C, D], L2-normalised.

    Yields:
      Which queries, and their similarities [q, C], at most `BLOCK_BYTES` of them.
    """
    rows = max(1, BLOCK_BYTES // max(1, 4 * len(candidates)))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        yield part, queries[part] @ candidates.T


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


def nearest(queries: np.ndarray, candidates: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """`ranks` of the similarities of [Q, D] to [C, D], computed in blocks."""
    answers = np.asarray(answers)
    found = [ranks(scores, answers[part]) for part, scores in blocks(queries, candidates)]
    return np.concatenate(found) if found else np.zeros(0, int)


def hit_rate(rank: np.ndarray, k: int) -> float:
    """The share of queries whose right candidate is among the first `k`."""
    return float((rank < k).mean())


def chance(k: int, candidates: int) -> float:
    """The hit rate among the first `k` of a random order."""
    return min(k / candidates, 1.0)
