"""The optimizer: schedule, decay mask, clipping."""
import jax.numpy as jnp
import numpy as np
import optax

from harmopower.config import get_config
from harmopower.training import optimizer as optimizers


def small():
    config = get_config()
    config.total_steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = 100, 10, 0.5
    return config


def test_schedule_warms_up_and_ends_at_zero():
    schedule = optimizers.make_schedule(small())
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10), schedule(55), schedule(100)],
                               [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def test_gains_biases_and_temperatures_are_not_decayed():
    params = {"logit_scale": 0, "vision": {"class_token": 0, "position": 0, "blocks": {"norm_1": {"scale": 0, "bias": 0},
              "qkv": {"kernel": 0, "bias": 0}}}}
    mask = optimizers.decay_mask(params)
    assert mask == {"logit_scale": False, "vision": {"class_token": False, "position": True, "blocks": {
        "norm_1": {"scale": False, "bias": False}, "qkv": {"kernel": True, "bias": False}}}}


def test_clipping_bounds_the_gradient_that_adam_sees():
    config = small()
    config.optimizer.weight_decay = 0.0
    params = {"kernel": jnp.zeros(4)}
    gradients = {"kernel": jnp.array([30.0, 40.0, 0.0, 0.0])}
    optimizer = optimizers.make_optimizer(config)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    mean = optax.tree_utils.tree_get(state, "mu")["kernel"]
    np.testing.assert_allclose(mean, (1 - config.optimizer.b1) * jnp.array([0.6, 0.8, 0, 0]), rtol=1e-5)
