"""A checkpoint that was trained sharded is exported on one device, and weights are loaded straight into shards."""

import jax
import numpy as np
import pytest

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

from interop_models import settings, tokenizer

from harmopower import config as configs
from harmopower.interop import export, names, source, starting
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointWriter
from tools import export as tool


def sharded_state(config, seed):
    model = export.exported_model(config, tokenizer())
    mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
    return states.create(model, optimizers.make_optimizer(configs.get_config()), mesh, seed)


def test_sharded_checkpoint_out_and_in(tmp_path):
    config = settings("patch8-shared16-vision32x2x2-text32x2x4", pool="mean")
    state, run = sharded_state(config, 1), tmp_path / "run"
    kernel = state.params["vision"]["transformer"]["blocks"]["qkv"]["kernel"]
    assert len(kernel.sharding.device_set) == 8 and not kernel.sharding.is_fully_replicated
    run.mkdir()
    (run / "config.json").write_text(configs.to_json(config))
    tokenizer().save(run / "tokenizer.json")
    with CheckpointWriter(str(run)) as checkpoints:
        checkpoints.save(0, state, {})
    assert tool.main(["--workdir", str(run), "--format", "huggingface", "--output", str(tmp_path / "out")]) == 0
    found, expected = source.open_source(tmp_path / "out"), names.flat(state.params)
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found.read(name), leaf, err_msg=name)
    for path in (run, tmp_path / "out"):  # another run's workdir, and published weights
        fresh = sharded_state(config, 2).params
        loaded = starting.load_init(str(path), fresh, config, lambda line: None)
        jax.tree.map(np.testing.assert_array_equal, loaded, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_(a.sharding == b.sharding), loaded, fresh)
