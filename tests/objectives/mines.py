"""Mined triplet terms as a reader would write them: all scores in float64, loops, and the derivative by every score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from harmopower.objectives import search
from harmopower.objectives.global_triplet import _Similarity
from harmopower.objectives.mining import TIE, Mining
from harmopower.objectives.search import Side

# Scores are whole numbers: with this margin a row at the corner of the triplet loss, which has two slopes, is none.
MARGIN, SCALE, WIDTH = 1.5, 0.7, 4
MENDS = {
    "hardest": Mining(),
    "semi_hard": Mining("semi_hard"),
    "top_k": Mining("top_k", top_k=3),
    "softmax": Mining("top_k", top_k=5, loss="softmax"),
    "hardest_of": Mining("hardest_of", negative_share_steps=4),
}


def example(rows=13, seed=0):
    """Whole numbers, so that many scores are equal to the last digit; rows of weight 0 and of half weight; an offer."""
    rng = np.random.default_rng(seed)
    image, text = rng.integers(-2, 3, (2, rows, WIDTH)).astype(np.float32)
    image[5], text[6] = 0, 0  # rows without a negative below, and with nothing but ties
    weight = np.select([np.arange(rows) % 5 == 3, np.arange(rows) == 4], [0, 0.5], 1).astype(np.float32)
    return image, text, weight


def chosen(x, i, weight, offered, mining):
    """The negatives of row i in a matrix of scores, the hardest first, of equal ones the lowest first."""
    below = x[i, i] - TIE * (1 + abs(x[i, i]))
    others = [j for j in range(len(x)) if j != i and weight[j] > 0 and (offered is None or offered[j])]
    if mining.negatives == "semi_hard":
        others = [j for j in others if x[i, j] < below]
    return sorted(others, key=lambda j: (-x[i, j], j))[: mining.count]


def of_row(own, hard, mining):
    """Loss of a row and its derivatives by the own score, the negatives' and the scale."""
    if mining.loss == "softmax":
        above = np.append(hard - own, 0.0)
        share = np.exp(SCALE * above) / np.exp(SCALE * above).sum()
        return np.log(np.exp(SCALE * above).sum()), SCALE * (share[-1] - 1), SCALE * share[:-1], share @ above
    lost = np.maximum(hard - own + MARGIN, 0)
    slope = (lost > 0) / len(hard)
    return lost.mean(), -slope.sum(), slope, 0.0


def dense(x, weight, mining, offered=None):
    """Loss, its derivative by all scores x [B, B], and by the scale."""
    value, slopes, by_scale = 0.0, np.zeros_like(x), 0.0
    for matrix, slope in ((x, slopes), (x.T, slopes.T)):
        for i in np.flatnonzero(weight):
            hard = chosen(matrix, i, weight, offered, mining)
            if hard:
                share = weight[i] / weight.sum()
                lost, own, others, scale = of_row(matrix[i, i], matrix[i, hard], mining)
                value, by_scale = value + share * lost, by_scale + share * scale
                slope[i, i] += share * own
                slope[i, hard] += share * others
    return value, slopes, by_scale


def expected(image, text, weight, mining, offered=None):
    """Loss, gradients by image, text and scale, and the spread of all scores."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    x = image @ text.T
    value, slopes, by_scale = dense(x, weight, mining, offered)
    kept = weight > 0
    return value, (slopes @ text, slopes.T @ image, by_scale), x[kept][:, kept].std() if kept.any() else 0.0


@functools.lru_cache
def program(mining, communication="ring", block=None):
    """Value, metrics and gradients by image, text and scale; one compilation for all examples of a shape."""

    def loss(image, text, scale, weight, offered):
        sides = (Side(vectors[:, None], jnp.ones((len(vectors), 1), bool)) for vectors in (image, text))
        how = dict(margin=MARGIN, numbers=1, communication=communication, block=block, mining=mining, offered=offered)
        scale = scale if mining.loss == "softmax" else None
        return search.triplet_loss(_Similarity(), *sides, weight, **how, scale=scale)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def offer(mining, rows, step=1):
    return mining.offered(rows, step, jax.random.key(3))


def agree(mining, arrays, **how):
    """The search, as it stands in the mesh of the caller, against the dense form."""
    image, text, weight = arrays
    offered = offer(mining, len(weight))
    (value, metrics), gradient = program(mining, **how)(image, text, np.float32(SCALE), weight, offered)
    wanted, slopes, spread = expected(*arrays, mining, None if offered is None else np.asarray(offered))
    np.testing.assert_allclose(value, wanted, rtol=2e-6)
    np.testing.assert_allclose(metrics["spread"], spread, rtol=1e-5)
    for got, slope in zip(gradient, slopes):
        np.testing.assert_allclose(got, slope, rtol=0, atol=1e-6 * max(np.abs(slope).max(), 1))
    return value, metrics
