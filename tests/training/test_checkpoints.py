"""Checkpoints: to the bit, the newest and the best, readers that change nothing, clear errors where they do not fit."""

import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.config import get_config
from harmopower.models import clip
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointError, Checkpoints, CheckpointWriter
from harmopower.training.watch import NonFiniteError


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
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(7, state, {})
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.resolve(None) == 7
    again = checkpoints.restore(7, states.abstract(*setting(optimizer=optimizer)))
    params = checkpoints.restore_params(7, states.abstract(*setting()).params)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def small(value=1.0):
    return states.TrainState(jnp.zeros((), jnp.int32), {"a": jnp.full(2, value)}, ())


def test_keeps_the_newest_and_the_best(tmp_path):
    with CheckpointWriter(str(tmp_path), keep=2, best="r1") as writer:
        for step, found in ((1, 0.1), (2, 0.9), (3, 0.3), (4, 0.2), (5, 0.4)):
            writer.save(step, small(), {"r1": found, "r5": 1.0})
    assert Checkpoints(str(tmp_path)).steps() == [2, 4, 5]
    assert Checkpoints(str(tmp_path)).metrics(2) == {"r1": 0.9, "r5": 1.0}


def test_the_best_is_chosen_among_what_was_evaluated(tmp_path):
    evaluations = {1: {"other": 2.0}, 2: {"r1": 0.5}, 3: {"r1": float("nan")}, 4: {}, 5: {"r1": 0.1}, 6: {}}
    for step, found in evaluations.items():
        with CheckpointWriter(str(tmp_path), best="r1") as writer:  # a run that is resumed for each
            writer.save(step, small(), found)
    assert Checkpoints(str(tmp_path)).steps() == [2, 6]
    assert Checkpoints(str(tmp_path)).metrics(6) == {}


def test_what_is_not_finite_cannot_be_saved(tmp_path):
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(1, small(), {})
        with pytest.raises(NonFiniteError, match="step 2: params/a is not finite; no checkpoint is written"):
            writer.save(2, small(float("nan")), {})
        infinite = small().replace(optimizer_state={"mu": jnp.array([0.0, float("inf")])})
        with pytest.raises(NonFiniteError, match="optimizer/1/mu is not finite"):
            writer.save(3, infinite, {})
    assert Checkpoints(str(tmp_path)).steps() == [1]


SAVING = """
import jax.numpy as jnp, os, sys
from harmopower.training import state
from harmopower.training.checkpoints import CheckpointWriter

last, size = map(int, sys.argv[2:])
with CheckpointWriter(sys.argv[1], keep=1) as writer:
    for step in range(1, last + 1):
        writer.save(step, state.TrainState(jnp.array(step), {"a": jnp.full((size,), float(step))}, ()), {})
        if os.path.exists(os.path.join(sys.argv[1], "enough")):
            break
"""


def start_saving(workdir, last, size):
    command = [sys.executable, "-c", SAVING, str(workdir), str(last), str(size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def read_newest(checkpoints):
    """The step and the value that is stored in it; None before the first, and where it was removed in between."""
    like = {"a": jnp.zeros(1000)}
    try:
        step = checkpoints.resolve(None)
        return step, float(checkpoints.restore_params(step, like)["a"][-1])
    except CheckpointError:
        return None


def test_a_reader_does_not_disturb_the_trainer(tmp_path):
    trainer, checkpoints, found = start_saving(tmp_path, 5000, 1000), Checkpoints(str(tmp_path)), set()
    while trainer.poll() is None:
        found |= {read_newest(checkpoints)} - {None}
        if len(found) > 2:  # a loaded machine needs more saves for that than a free one
            (tmp_path / "enough").touch()
    assert trainer.returncode == 0, trainer.stderr.read()
    assert len(checkpoints.steps()) == 1 and len(found) > 2 and all(step == value for step, value in found), found


def test_a_kill_during_a_save_leaves_the_checkpoint_before(tmp_path):
    trainer = start_saving(tmp_path, 1000, 1_000_000)
    unfinished = lambda: list(tmp_path.glob("checkpoints/*tmp*"))
    while not (Checkpoints(str(tmp_path)).steps() and unfinished()):
        assert trainer.poll() is None, trainer.stderr.read()
        time.sleep(0.001)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    checkpoints, before = Checkpoints(str(tmp_path)), sorted(tmp_path.rglob("*"))
    newest = checkpoints.resolve(None)
    assert checkpoints.restore_params(newest, {"a": jnp.zeros(1_000_000)})["a"][-1] == newest
    assert sorted(tmp_path.rglob("*")) == before  # a reader changes nothing, not even leftovers
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(newest + 1, small(), {})
    assert checkpoints.steps() == [newest + 1] and not unfinished()


def test_a_mismatch_is_listed(tmp_path, state):
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(1, state, {})
    other = states.abstract(*setting(image_size=64))
    with pytest.raises(CheckpointError) as error:
        Checkpoints(str(tmp_path)).restore(1, other)
    assert "vision/position is float32[5, 128] in the checkpoint, float32[17, 128] here" in str(error.value)


def test_a_missing_step_names_those_there_are(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoints.resolve(None)
    assert not list(tmp_path.iterdir())
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(4, small(), {})
    with pytest.raises(CheckpointError, match=r"step 3 .* only of \[4\]"):
        checkpoints.resolve(3)
