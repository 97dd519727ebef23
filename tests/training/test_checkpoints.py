"""Checkpoints: to the bit, the newest and the best, and clear errors where they do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.config import get_config
from harmopower.models import clip
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointError, Checkpoints


def setting(image_size=32, optimizer="adamw"):
    config = get_config()
    config.optimizer.name = optimizer
    config.model.preset, config.data.image_size, config.data.context_length = "tiny", image_size, 8
    return (
        clip.from_config(config, 32, 31),
        optimizers.make_optimizer(config),
        meshes.make_mesh(devices=jax.devices()[:1]),
    )


@pytest.fixture(scope="module")
def state():
    return states.create(*setting(), seed=3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_restores_to_the_bit(tmp_path, optimizer):
    state = states.create(*setting(optimizer=optimizer), seed=3)
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(7, state, {})
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.resolve(None) == 7
        again = checkpoints.restore(7, states.abstract(*setting(optimizer=optimizer)))
        params = checkpoints.restore_params(7, states.abstract(*setting()).params)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_keeps_the_newest_and_the_best(tmp_path, state):
    small = states.TrainState(jnp.zeros((), jnp.int32), {"a": jnp.ones(2)}, ())
    with Checkpoints(str(tmp_path), keep=2, best="r1") as checkpoints:
        for step, found in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
            checkpoints.save(step, small, {"r1": found})
    assert Checkpoints(str(tmp_path)).steps() == [2, 4, 5]


def test_a_mismatch_is_listed(tmp_path, state):
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(1, state, {})
    other = states.abstract(*setting(image_size=64))
    with Checkpoints(str(tmp_path)) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(1, other)
    assert "vision/position is float32[5, 128] in the checkpoint, float32[17, 128] here" in str(error.value)


def test_a_missing_step_names_those_there_are(tmp_path, state):
    with Checkpoints(str(tmp_path)) as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoint in"):
            checkpoints.resolve(None)
        checkpoints.save(4, state, {})
        with pytest.raises(CheckpointError, match=r"step 3 .* only of \[4\]"):
            checkpoints.resolve(3)
