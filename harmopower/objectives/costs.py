"""Counted work of the powerset objective, to compare with a train step before anything is run."""
from typing import NamedTuple


class Operations(NamedTuple):
    """Floating-point operations of one value and gradient: matrix products, elementwise, and exp or log."""

    matmul: float
    vector: float
    transcendental: float


def powerset_operations(
    batch: int, regions: int, phrases: int, width: int, method: str, samples: int = 256,
) -> Operations:
    """Counts both sweeps over the global batch: all pairs in the search, `3 B` of them with gradient.

    Args:
      batch, regions, phrases, width: B, M, K and D.
      method, samples: of `config.objective.powerset`.
    Returns:
      Operations of all devices together. Additions and comparisons count one; so does an exp or a log.
    """
    pairs, scored = batch * batch + batch, 3 * batch
    s_matmul = 2 * regions * phrases * width
    matmul = pairs * s_matmul + scored * 3 * s_matmul
    subset_matmul = 2 * samples * regions * phrases if method == "sampled" else 0
    vector, transcendental = _a_pair(regions, phrases, method, samples)
    # The derivative of a scored pair costs about twice its value: the value again, then the slopes.
    evaluations = pairs + 2 * scored
    return Operations(matmul + evaluations * subset_matmul, evaluations * vector, evaluations * transcendental)


def _a_pair(regions: int, phrases: int, method: str, samples: int):
    scores = regions * phrases
    if method == "nla":
        # A score: scaling, absolute value, maximum, three additions, one product, one exp. A phrase: one log, one exp.
        return 8 * scores + 8 * phrases, scores + 2 * phrases
    relu = 2 * scores
    if method == "sampled":
        return relu + samples * phrases, 0
    halves = 2 ** (regions // 2) + 2 ** (regions - regions // 2)
    return relu + halves * phrases + 2 * 2**regions * phrases, 0
