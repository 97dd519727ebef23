"""The same run on one and on eight devices: the losses agree."""
import jax
import numpy as np
import pytest

from harmopower.parallel import mesh as meshes
from harmopower.training import writers
from tests.training import common

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return common.prepare(tmp_path_factory.mktemp("data"))


def config(source):
    """Ten steps of warm-up, as the quickstart begins: Adam's first full-sized steps blow rounding up to any size."""
    return common.small_config(source, total_steps=10, optimizer__warmup_steps=9, optimizer__learning_rate=3e-4)


@pytest.fixture(scope="module")
def single(source, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("single")
    common.train(config(source), workdir)
    return common.losses(writers.read_metrics(str(workdir)))


@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 2, 1), (2, 2, 2)])
def test_losses_of_ten_steps_agree_with_one_device(source, single, tmp_path, shape):
    mesh = meshes.make_mesh(*shape)
    common.train(config(source), tmp_path, mesh)
    several = common.losses(writers.read_metrics(str(tmp_path)))
    assert len(several) == 10
    for one, many in zip(single, several):
        for name in one:
            np.testing.assert_allclose(many[name], one[name], rtol=1e-5, err_msg=name)
