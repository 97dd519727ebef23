"""Counted work of the objectives, to compare with a train step before anything is run."""

from typing import NamedTuple


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


def loss_flops(
    objective, batch: int, regions: int, phrases: int, width: int, text_rows: int, hardware: bool = False
) -> dict[str, float]:
    """Matrix products of one value and gradient of each loss that is switched on, all devices together.

    Args:
      objective: `config.objective`.
      batch, regions, phrases, width: B, M, K and D.
      text_rows: R, how many regions of an image have a text of their own to align with.
      hardware: with the tiles that the backward pass computes again.

    Returns:
      operations by the names of the losses. Crops are compared with their regions alone, which is no product.
    """
    flops = {}
    if objective.global_contrastive.weight:
        flops["global_contrastive"] = pair_flops(batch, width, hardware)
    if objective.lexeme_region.weight:
        flops["lexeme_region"] = pair_flops(batch * regions, width, hardware)
    if objective.global_region.weight and objective.global_region.mode == "text":
        flops["global_region"] = pair_flops(batch * text_rows, width, hardware)
    if objective.powerset.weight:
        term = objective.powerset
        flops["powerset"] = powerset_operations(batch, regions, phrases, width, term.method, term.samples).matmul
    return flops


def pair_flops(rows: int, width: int, hardware: bool = False) -> float:
    """Products of a contrastive loss of `rows` against `rows`: the logits and two gradients; the logits once again."""
    return (4 if hardware else 3) * 2 * rows**2 * width
