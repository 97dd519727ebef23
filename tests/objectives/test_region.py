"""The pair loss against the float64 oracle, and the crop loss."""

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from harmopower.objectives import region


@partial(jax.jit, static_argnames=("duplicates", "block"))
def pair_loss(a, b, scale, valid, group, duplicates, block=None):
    def loss(a, b, scale):
        return region.pair_loss(a, b, valid, group, scale, duplicates=duplicates, block=block)

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(a, b, scale)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["positives", "ignore"]),
    st.sampled_from([4, None]),
    st.sampled_from([1.0, 30.0]),
)
def test_pair_loss_is_the_oracles(seed, duplicates, block, scale):
    rng = np.random.default_rng(seed)
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in rng.normal(size=(2, 9, 4)))
    valid, group = rng.random(9) < 0.7, rng.integers(0, 5, 9).astype(np.int32)
    features = [side.astype(np.float32) for side in (a, b)] + [np.float32(scale)]
    (value, metrics), gradient = pair_loss(*features, valid, group, duplicates, block)
    exact = [np.asarray(feature, np.float64) for feature in features]
    reference = partial(oracle_pairs, valid=valid, group=group, duplicates=duplicates)
    np.testing.assert_allclose(value, reference(*exact), rtol=1e-5, atol=1e-6)
    directions = [rng.normal(size=feature.shape) for feature in exact]
    slope = oracle.directional_derivative(reference, exact, directions)
    np.testing.assert_allclose(sum((g * d).sum() for g, d in zip(gradient, directions)), slope, rtol=1e-4, atol=1e-4)
    assert metrics["pairs"] == valid.sum()


def oracle_pairs(a, b, scale, valid, group, duplicates):
    return oracle.pairs(a, b, valid, group, scale, duplicates)


def test_no_valid_pair_is_no_loss_and_no_gradient():
    features = np.eye(9, 4, dtype=np.float32)
    nothing, group = np.zeros(9, bool), np.arange(9, dtype=np.int32)
    (value, metrics), gradient = pair_loss(features, features, np.float32(10), nothing, group, "positives")
    assert value == 0 and metrics["pairs"] == 0 and metrics["accuracy"] == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_crop_loss_pulls_regions_and_leaves_crops_alone():
    regions, crops = jnp.eye(3)[None], jnp.roll(jnp.eye(3), 1, axis=0)[None]
    valid = jnp.array([[True, True, False]])
    assert region.crop_loss(regions, regions, valid)[0] == pytest.approx(0)
    value, gradients = jax.value_and_grad(lambda r, c: region.crop_loss(r, c, valid)[0], (0, 1))(regions, crops)
    assert value == pytest.approx(1)
    np.testing.assert_allclose(gradients[0], -crops / 2 * valid[..., None])
    assert not np.any(gradients[1])
