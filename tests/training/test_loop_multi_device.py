"""The same run on one and on eight devices: the losses agree, and what a device holds shrinks."""

import pathlib
import re
import signal

import jax
import numpy as np
import pytest

from harmopower import runs
from harmopower.config import load
from harmopower.errors import ConfigError
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import writers
from tests.training import common

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)


class StopAfter:
    """Leaves the loop as a scheduler's signal would, so that the schedule stays that of the whole run."""

    received, exit_code = signal.SIGTERM, 0

    def __init__(self, steps: int):
        self._left = steps

    def agreed(self) -> bool:
        self._left -= 1
        return self._left == 0


def ten_steps(source, workdir, mesh=None):
    """The losses of the quickstart's first ten steps, its learning rate and objectives, on few and small scenes.

    Only rounding parts the meshes, and it grows with the step. On the quickstart's own data, batch and size the losses
    of (4, 2) and of one device differ by at most 4.9e-6, relative (the powerset term of step 10, Muon); a change of
    1e-7 in the first parameters of one device moves its own by 5.8e-6. With AdamW (1.5e-3) it was 4.4e-7 and 2.3e-7.
    At a full learning rate from the third step on (AdamW, `small_config`) a change of 1.3e-7 grows to 1.9e-5 in the
    powerset term of that step: there 1e-5 is no property of the mesh.
    """
    config = load(pathlib.Path(__file__).parents[2] / "configs" / "scenes.py")
    config.data.source, config.data.image_size, config.batch_size = source, 64, 16
    config.log.every_steps, config.log.tensorboard = 1, False
    config.model.scan_unroll = 1  # the same numbers, sooner compiled
    common.train(config, workdir, mesh, StopAfter(10))
    return common.losses(writers.read_metrics(str(workdir)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return common.prepare(tmp_path_factory.mktemp("data"))


def config(source):
    """Ten small steps of warm-up."""
    return common.small_config(source, total_steps=10, optimizer__warmup_steps=9, optimizer__learning_rate=3e-4)


@pytest.fixture(scope="module")
def single(source, tmp_path_factory):
    return ten_steps(source, tmp_path_factory.mktemp("single"))


@pytest.mark.slow  # in the quick suite test_finetuning_multi_device takes steps on eight devices, of a smaller model
@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 2, 1), (2, 2, 2)])
def test_losses_of_ten_steps_agree_with_one_device(source, single, tmp_path, shape):
    several = ten_steps(source, tmp_path, meshes.make_mesh(*shape))
    assert len(several) == len(single) == 10
    for one, many in zip(single, several):
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-5, err_msg=name)


def held(source, *shape) -> tuple[int, int]:
    """Bytes of parameters and of optimizer state that the first device holds, counted from its shards."""
    settings = config(source)
    model, optimizer = runs.build_model(settings, runs.open_data(settings)[0]), optimizers.make_optimizer(settings)
    state = states.create(model, optimizer, meshes.make_mesh(*shape), 0)
    return tuple(
        sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(part)
            for shard in leaf.addressable_shards
            if shard.device == jax.devices()[0]
        )
        for part in (state.params, state.optimizer_state)
    )


def test_a_device_holds_less_with_fsdp(source):
    whole, halves, eighths = (held(source, *shape) for shape in ((8, 1, 1), (4, 2, 1), (1, 8, 1)))
    for kind in (0, 1):  # parameters, optimizer state
        # What has no axis `embed` (gains, biases, patches' positions) stays whole.
        assert halves[kind] < 0.55 * whole[kind] and eighths[kind] < 0.18 * whole[kind]


def test_tokens_are_looked_up_without_communication(source):
    """The table is gathered as a weight; looked up in shards, the embedded tokens would be sent about."""
    settings = config(source)
    model, optimizer = runs.build_model(settings, runs.open_data(settings)[0]), optimizers.make_optimizer(settings)
    mesh = meshes.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        params = states.abstract(model, optimizer, mesh).params
        ids = jax.ShapeDtypeStruct((16, 20), np.int32, sharding=meshes.batch_sharding(mesh))
        encode = jax.jit(lambda params, ids: model.apply({"params": params}, ids, method="encode_text").tokens)
        compiled = encode.lower(params, ids).compile().as_text()
    collectives = [
        line for line in compiled.splitlines() if re.search(r" (all-|collective-|reduce-scatter)[a-z-]+\(", line)
    ]
    assert any("text/transformer" in line for line in collectives)  # it is sharded at all
    assert not [line for line in collectives if "text/gather" in line]


@pytest.mark.slow
def test_what_is_drawn_or_takes_turns_does_not_depend_on_the_mesh(source, tmp_path):
    """One row a device and slice, so that the two images of a turn lie on two devices."""
    seen = []
    for name, mesh in (("one", None), ("several", meshes.make_mesh(2, 2, 2))):
        settings = config(source)
        settings.total_steps, settings.model.patch_dropout, settings.accumulate = 10, 0.5, 1 if mesh is None else 2
        settings.data.region_text_every = 2
        common.train(settings, tmp_path / name, mesh)
        seen.append(common.losses(writers.read_metrics(str(tmp_path / name)))[:3])
    for one, many in zip(*seen, strict=True):
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_bad_row_in_one_slice_of_one_device_is_skipped_by_all(source):
    common.skip_a_bad_update(source, meshes.make_mesh(2, 2, 2), accumulate=2)


def test_a_mesh_that_does_not_divide_is_refused_before_anything_is_compiled(source, tmp_path):
    settings = config(source)
    settings.batch_size = 2
    with pytest.raises(ConfigError, match="config.mesh.tensor 3 does not divide the .* of axis"):
        common.train(settings, tmp_path, meshes.make_mesh(2, 1, 3, devices=jax.devices()[:6]))
