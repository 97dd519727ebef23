"""The mesh from the config."""
import jax
import pytest

from harmopower.config import ConfigError
from harmopower.parallel import mesh as meshes


@pytest.mark.parametrize("sizes, expected", [((-1, 2, 1), (4, 2, 1)), ((2, 2, 2), (2, 2, 2)), ((1, -1, 2), (1, 4, 2))])
def test_fill(sizes, expected):
    assert meshes._fill(dict(zip(("data", "fsdp", "tensor"), sizes)), 8) == expected


@pytest.mark.parametrize(
    "sizes, words",
    [((3, 1, 1), ("3 devices", "8")), ((-1, 3, 1), ("fsdp", "3", "8")), ((-1, -1, 1), ("data and fsdp",)), ((0, 1, 1), ("0",))],
)
def test_refuses_sizes_that_do_not_fit(sizes, words):
    with pytest.raises(ConfigError) as error:
        meshes._fill(dict(zip(("data", "fsdp", "tensor"), sizes)), 8)
    assert all(word in str(error.value) for word in words)


def test_one_device_mesh_cuts_nothing():
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    assert mesh.shape == {"data": 1, "fsdp": 1, "tensor": 1} and meshes.batch_shards(mesh) == 1
