"""Counted work of the powerset objective, to compare with a train step before anything is run."""

from typing import NamedTuple

from harmopower.objectives import powerset, search


class Operations(NamedTuple):
    """Floating-point operations of one value and gradient: matrix products, elementwise, and exp or log."""

    matmul: float
    vector: float
    transcendental: float


def powerset_operations(
    batch: int, regions: int, phrases: int, width: int, method: str, samples: int = 256
) -> Operations:
    """Counts both sweeps over the global batch: all pairs in the search, `3 B` of them with gradient.

    Args:
      batch, regions, phrases, width: B, M, K and D.
      method, samples: of `config.objective.powerset`.
    Returns:
      Operations of all devices together. Additions and comparisons count one; so does an exp or a log.
    """
    matmul = powerset.matrix_products(batch, regions, phrases, width, samples if method == "sampled" else 0)
    vector, transcendental = _a_pair(regions, phrases, method, samples)
    evaluations = search.evaluations(batch)
    return Operations(matmul, evaluations * vector, evaluations * transcendental)


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
