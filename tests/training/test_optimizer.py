"""The optimizer: schedule, decay mask, clipping."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmopower import config as configs
from harmopower import durations
from harmopower.config import get_config
from harmopower.errors import ConfigError
from harmopower.training import optimizer as optimizers


def small():
    config = get_config()
    config.total_steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = 100, 10, 0.5
    return config


def test_schedule_warms_up_and_ends_at_zero():
    schedule = optimizers.make_schedule(small())
    np.testing.assert_allclose(
        [schedule(0), schedule(5), schedule(10), schedule(55), schedule(100)], [0, 0.25, 0.5, 0.25, 0], atol=1e-6
    )


def test_constant_and_rsqrt_cool_down_linearly():
    config = small()
    config.optimizer.update(dict(schedule="constant", cooldown_steps=20))
    rates = list(map(optimizers.make_schedule(config), (0, 5, 10, 80, 90, 100)))
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.5, 0.25, 0], atol=1e-6)
    config.optimizer.update(dict(schedule="rsqrt", timescale=30))
    rates = list(map(optimizers.make_schedule(config), (0, 5, 10, 40, 90, 100)))
    expected = [0, 0.25, 0.5, 0.5 * 0.5**0.5, 0.5 * 0.5 * (30 / 110) ** 0.5, 0]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    config.optimizer.update(dict(cooldown_steps=0, warmup_steps=0))
    np.testing.assert_allclose(optimizers.make_schedule(config)(90), 0.5 * 0.5, rtol=1e-6)


def test_durations_in_examples_and_epochs_become_steps():
    config = small()
    config.total_steps, config.total_epochs, config.batch_size = 0, 2.5, 64
    config.optimizer.update(dict(warmup_steps=0, warmup_examples=640, schedule="constant", cooldown_epochs=0.5))
    configs.validate(config, 1)
    lines = durations.in_steps(config, examples=1000)
    assert (config.total_steps, config.optimizer.warmup_steps, config.optimizer.cooldown_steps) == (39, 10, 7)
    assert lines[0] == "config.total_epochs 2.5 of 1,000 examples an epoch: 39 steps" and len(lines) == 3
    configs.validate(config, 1)  # as it is stored, and read again
    assert durations.in_steps(config, examples=1000) == [] and config.total_epochs == 0.0
    config.total_steps, config.total_examples = 0, 63
    with pytest.raises(ConfigError, match="config.total_examples 63 .* is 0 steps of config.batch_size 64"):
        durations.in_steps(config, examples=1000)
    config.total_examples = 640
    with pytest.raises(ConfigError, match="warmup_steps 10 must be below config.total_steps 10"):
        durations.in_steps(config, examples=1000)


def test_gains_biases_and_temperatures_are_not_decayed():
    params = {
        "logit_scale": 0,
        "vision": {
            "class_token": 0,
            "position": 0,
            "blocks": {"norm_1": {"scale": 0, "bias": 0}, "qkv": {"kernel": 0, "bias": 0}},
        },
    }
    mask = optimizers.decay_mask(params)
    assert mask == {
        "logit_scale": False,
        "vision": {
            "class_token": False,
            "position": True,
            "blocks": {"norm_1": {"scale": False, "bias": False}, "qkv": {"kernel": True, "bias": False}},
        },
    }


def test_clipping_bounds_the_gradient_that_adam_sees():
    config = small()
    config.optimizer.weight_decay = 0.0
    params = {"kernel": jnp.zeros(4)}
    gradients = {"kernel": jnp.array([30.0, 40.0, 0.0, 0.0])}
    optimizer = optimizers.make_optimizer(config)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    mean = optax.tree_utils.tree_get(state, "mu")["kernel"]
    np.testing.assert_allclose(mean, (1 - config.optimizer.b1) * jnp.array([0.6, 0.8, 0, 0]), rtol=1e-5)


def test_muon_gives_every_direction_of_a_block_matrix_one_step_size_and_leaves_the_rest_to_adam():
    config = small()
    config.optimizer.name, config.optimizer.weight_decay, config.optimizer.clip_norm = "muon", 0.0, 0.0
    rng = np.random.default_rng(0)
    # A gradient of query, key and value in which one direction outweighs all others a thousandfold.
    left, right = (np.linalg.qr(rng.normal(size=(2, 3, 8, 8)))[0] for _ in range(2))
    kernel = np.einsum("lsai,i,lsib->lasb", left, [1e3] + [1.0] * 7, right).reshape(2, 8, 3, 2, 4)
    gradients = {"qkv": {"kernel": jnp.asarray(kernel, jnp.float32)}, "tokens": jnp.full((4, 8), 1e-3)}
    optimizer = optimizers.make_optimizer(config)
    params = optax.tree.zeros_like(gradients)
    state = optimizer.init(params)
    _, state = optimizer.update(gradients, state, params)  # the rate of the very first step is 0
    updates, _ = optimizer.update(gradients, state, params)
    rate = float(optimizers.make_schedule(config)(1))
    update = np.moveaxis(np.asarray(updates["qkv"]["kernel"]).reshape(2, 8, 3, 8), 2, 1) / (-rate * 0.2 * 8**0.5)
    spread = np.linalg.svd(update, compute_uv=False)
    assert spread.min() > 0.4 and spread.max() < 1.4, spread  # AdamW's update would keep the large direction apart
    np.testing.assert_allclose(
        updates["tokens"], -rate * np.ones((4, 8)), rtol=0.2
    )  # Adam: the size of the gradient is gone
