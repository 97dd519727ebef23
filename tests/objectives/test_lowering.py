"""Value and gradient of every loss can be lowered for accelerators on a machine that has none."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from harmopower.objectives import contrastive, powerset, region

ROWS, REGIONS, PHRASES, WIDTH = 256, 10, 20, 64


def triplet(image, text, method):
    regions, phrases = (jnp.repeat(side[:, None], rows, 1) for side, rows in ((image, REGIONS), (text, PHRASES)))
    masks = jnp.ones((ROWS, REGIONS), bool), jnp.ones((ROWS, PHRASES), bool)
    return powerset.powerset_loss(
        regions, masks[0], phrases, masks[1], margin=0.2, method=method, rng=jax.random.key(0), block=64
    )[0]


LOSSES = {
    "softmax": lambda image, text: contrastive.softmax_loss(image, text, 10.0, block=64)[0],
    "sigmoid": lambda image, text: contrastive.sigmoid_loss(image, text, 10.0, -10.0, block=64)[0],
    "pairs": lambda a, b: region.pair_loss(a, b, jnp.ones(ROWS, bool), jnp.arange(ROWS), 10.0, block=64)[0],
} | {f"powerset-{method}": partial(triplet, method=method) for method in ("nla", "exact", "sampled")}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_lower_for_cuda_and_tpu(name):
    side = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16)
    traced = jax.jit(jax.value_and_grad(LOSSES[name], (0, 1))).trace(side, side)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"<{ROWS}x{ROWS}x" not in text  # nor is a matrix of the whole batch asked for there
        assert "stablehlo.dot_general" in text
