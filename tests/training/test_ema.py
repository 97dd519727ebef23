"""The moving average of the parameters: what it is, that checkpoints hold it, and that it is given on request."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointError, Checkpoints, CheckpointWriter
from tests.training import common


def test_is_a_recursion_that_skipped_updates_do_not_move_and_checkpoints_hold(tmp_path):
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    seen = common.average_six_steps(mesh, 2, "text/*=0")
    assert common.bits(seen[-1].ema["text"]) == common.bits(seen[-1].params["text"])  # frozen
    assert common.bits(seen[-1].ema["vision"]) != common.bits(seen[-1].params["vision"])
    with CheckpointWriter(str(tmp_path), keep=2) as writer:
        last = jax.tree.map(jnp.asarray, seen[-1])
        writer.save(6, last, {})
        writer.save(7, dataclasses.replace(last, ema=None), {})
    config, model, _ = common.micro(optimizer__groups="text/*=0")
    like = states.abstract(model, optimizers.make_optimizer(config), mesh, ema=True)
    checkpoints = Checkpoints(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(6, like), seen[-1])
    for ema, expected in ((True, seen[-1].ema), (False, seen[-1].params)):
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore_params(6, like.params, ema), expected)
    with pytest.raises(CheckpointError, match="--ema: the checkpoint of step 7 .* config.optimizer.ema=0"):
        checkpoints.restore_params(7, like.params, ema=True)
    with pytest.raises(CheckpointError, match="not the optimizer: .* is not in the checkpoint.*ema"):
        checkpoints.restore(7, like)


def test_starts_from_the_weights_that_the_run_starts_from():
    config, model, _ = common.micro()
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    state = states.create(model, optimizers.make_optimizer(config), mesh, 0, ema=True)
    started = states.starting_from(jax.tree.map(lambda leaf: leaf + 1, state.params), state)
    assert common.bits(started.ema) == common.bits(started.params) != common.bits(state.params)
    pointers = lambda tree: {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
    assert not pointers(started.ema) & pointers(started.params)  # a step donates both
