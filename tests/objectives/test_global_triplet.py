"""The triplet loss on plain similarities, in tiles, against the dense form; shards: the file beside this one."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from harmopower.config import get_config
from harmopower.objectives import total
from harmopower.objectives.global_triplet import GlobalTriplet
from harmopower.objectives.objective import Features
from harmopower.parallel import collectives

ROWS, WIDTH, MARGIN = 13, 8, 0.3


def example(rows=ROWS):
    """Features with rows of weight 0 among them."""
    unit = np.random.default_rng(rows).normal(size=(2, rows, WIDTH)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    return jnp.array(unit[0]), jnp.array(unit[1]), jnp.array(np.arange(rows) % 5 != 3, jnp.float32)


def dense(image, text, weight):
    """From the matrix of all similarities, rows of weight 0 left out."""
    scores = (image @ text.T)[weight > 0][:, weight > 0]
    others = jnp.where(jnp.eye(len(scores), dtype=bool), -jnp.inf, scores)
    return sum(jax.nn.relu(others.max(axis) - jnp.diagonal(scores) + MARGIN).mean() for axis in (0, 1))


def objective(communication="auto"):
    return GlobalTriplet(ConfigDict(dict(weight=1.0, margin=MARGIN)), communication)


def tiled(image, text, weight, communication="auto"):
    return objective(communication).loss(Features(image, text, weight), {}, None)[0]


@pytest.mark.parametrize("numbers_a_tile", [64, 2**20], ids=["tiles of 8", "one tile"])
def test_value_and_gradient_are_those_of_the_dense_form(numbers_a_tile, monkeypatch):
    monkeypatch.setitem(collectives.TILE_NUMBERS, "cpu", numbers_a_tile)
    image, text, weight = example()
    value, gradient = jax.value_and_grad(tiled, (0, 1))(image, text, weight)
    expected, expected_gradient = jax.value_and_grad(dense, (0, 1))(image, text, np.asarray(weight))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for got, wanted in zip(gradient, expected_gradient):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-7)
    assert np.any(gradient[0]) and not np.any(gradient[0][3])


def test_it_is_a_term_like_any_other():
    """Off by default; switched on it has a weight, a warm-up and metrics, and asks for nothing but pooled vectors."""
    terms = get_config().objective
    assert "global_triplet" not in {term.name for term in total.switched_on(terms)}
    for name, term in terms.items():
        if isinstance(term, ConfigDict):
            term.weight = float(name == "global_triplet")
    terms.global_triplet.warmup_steps = 2
    assert not any(total.active(terms))
    features = Features(*example())
    loss, metrics = total.total_loss(features, {}, terms, 0, None)
    assert metrics["weight/global_triplet"] == 0.5 and loss == pytest.approx(0.5 * metrics["loss/global_triplet"])
    assert metrics["global_triplet/active"] > 0 and metrics["global_triplet/hard_text"] <= 1


def test_the_largest_array_is_a_tile():
    """No matrix of 64 x 64 similarities where tiles have 8 rows."""
    image, text, weight = example(64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(collectives.TILE_NUMBERS, "cpu", 64)
        text = jax.jit(jax.grad(tiled)).lower(image, text, weight).as_text()
    assert "tensor<8x8xf32>" in text and "tensor<64x64xf32>" not in text
