"""Global losses: the float64 oracle, blocks, weights, and rows without weight that must not matter."""

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import oracle
import pytest

from harmopower.objectives import contrastive

ROWS, WIDTH = 7, 5


@partial(jax.jit, static_argnames="block")
def softmax(image, text, scale, weight, block=None):
    loss = partial(contrastive.softmax_loss, weight_rows=weight, block=block)
    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(image, text, scale)


@partial(jax.jit, static_argnames="block")
def sigmoid(image, text, scale, bias, weight, block=None):
    loss = partial(contrastive.sigmoid_loss, weight_rows=weight, block=block)
    return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(image, text, scale, bias)


def example(seed, weight=None):
    rng = np.random.default_rng(seed)
    sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in rng.normal(size=(2, ROWS, WIDTH))]
    weight = rng.choice([0, 0.5, 1, 1, 1], ROWS) if weight is None else weight
    return [side.astype(np.float32) for side in sides], np.asarray(weight, np.float32)


def check(got, reference, arguments, seed):
    """Value, and gradient along a random direction, of a float32 loss against a float64 reference."""
    (value, _), gradient = got
    exact = [np.asarray(argument, np.float64) for argument in arguments]
    directions = [np.random.default_rng(seed).normal(size=argument.shape) for argument in exact]
    np.testing.assert_allclose(value, reference(*exact), rtol=1e-5, atol=1e-6)
    slope = oracle.directional_derivative(reference, exact, directions)
    got_slope = sum((g * d).sum() for g, d in zip(gradient, directions))
    np.testing.assert_allclose(got_slope, slope, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 14.0, 100.0]), st.sampled_from([1, 3, None]))
def test_softmax_is_the_oracles(seed, scale, block):
    (image, text), weight = example(seed)
    scale = np.float32(scale)
    got = softmax(image, text, scale, weight, block=block)
    check(got, lambda a, b, s: oracle.softmax(a, b, s, weight.astype(np.float64)), (image, text, scale), seed)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 10.0, 100.0]),
    st.sampled_from([-10.0, 0.0, 3.0]),
    st.sampled_from([3, None]),
)
def test_sigmoid_is_the_oracles(seed, scale, bias, block):
    (image, text), weight = example(seed)
    scale, bias = np.float32(scale), np.float32(bias)
    got = sigmoid(image, text, scale, bias, weight, block=block)
    arguments = image, text, scale, bias
    check(got, lambda a, b, s, c: oracle.sigmoid(a, b, s, c, weight.astype(np.float64)), arguments, seed)


def test_accuracy_counts_the_rows_whose_own_pair_is_the_best():
    image = np.eye(4, dtype=np.float32)
    text = image[[0, 1, 3, 2]]
    metrics = contrastive.softmax_loss(image, text, 10.0)[1]
    assert metrics["accuracy_image_to_text"] == metrics["accuracy_text_to_image"] == 0.5
    metrics = contrastive.softmax_loss(image, text, 10.0, weight_rows=np.array([1, 0, 1, 1], np.float32))[1]
    assert metrics["accuracy_image_to_text"] == pytest.approx(1 / 3)
    metrics = contrastive.sigmoid_loss(image, text, 10.0, -5.0)[1]
    assert (metrics["accuracy"], metrics["positive_logit"]) == (0.5, 0.0)


def test_no_row_with_weight_is_no_loss_and_no_gradient():
    (image, text), weight = example(0, np.zeros(ROWS))
    for (value, metrics), gradient in (
        softmax(image, text, np.float32(10), weight),
        sigmoid(image, text, np.float32(10), np.float32(-5), weight),
    ):
        assert value == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
        assert np.isfinite(list(metrics.values())).all()


def test_zero_vectors_give_finite_gradients():
    zeros = np.zeros((ROWS, WIDTH), np.float32)
    (value, _), gradient = softmax(zeros, zeros, np.float32(100), np.ones(ROWS, np.float32))
    assert value == pytest.approx(np.log(ROWS), rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_wrong_switch_and_block_are_refused():
    (image, text), weight = example(0)
    with pytest.raises(ValueError, match="duplicates is 'all'"):
        contrastive.info_nce(image, text, weight > 0, np.arange(ROWS), 1.0, duplicates="all")
    with pytest.raises(ValueError, match="block -1"):
        contrastive.softmax_loss(image, text, 1.0, block=-1)


def test_memory_does_not_grow_with_the_square_of_the_batch():
    """B = 16384: the matrix of logits alone would take 1 GiB."""
    features = jax.ShapeDtypeStruct((16384, 64), np.float32)

    def loss(image, text, scale):
        return contrastive.softmax_loss(image, text, scale)[0]

    scale = jax.ShapeDtypeStruct((), np.float32)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(features, features, scale).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
