"""The mesh from the config: sizes, several slices or nodes, and what does not divide over it."""

import os
import subprocess
import sys
import types

import jax
import pytest

from harmopower.errors import ConfigError
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules


@pytest.mark.parametrize("sizes, expected", [((-1, 2, 1), (4, 2, 1)), ((2, 2, 2), (2, 2, 2)), ((1, -1, 2), (1, 4, 2))])
def test_fill(sizes, expected):
    assert meshes._fill(dict(zip(("data", "fsdp", "tensor"), sizes)), 8) == expected


@pytest.mark.parametrize(
    "sizes, words",
    [
        ((3, 1, 1), ("3 devices", "8")),
        ((-1, 3, 1), ("fsdp", "3", "8")),
        ((-1, -1, 1), ("data and fsdp",)),
        ((0, 1, 1), ("0",)),
    ],
)
def test_refuses_sizes_that_do_not_fit(sizes, words):
    with pytest.raises(ConfigError) as error:
        meshes._fill(dict(zip(("data", "fsdp", "tensor"), sizes)), 8)
    assert all(word in str(error.value) for word in words)


def test_one_device_mesh_cuts_nothing():
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    assert mesh.shape == {"data": 1, "fsdp": 1, "tensor": 1} and meshes.batch_shards(mesh) == 1


STORED = """
import jax
from harmopower.parallel import mesh as meshes

@jax.jit
def before(x): return x + 1

@jax.jit
def after(x): return x + 2

before(jax.numpy.ones(3)).block_until_ready()
mesh = meshes.make_mesh(devices=jax.devices()[:DEVICES])
after(jax.device_put(jax.numpy.ones(4), meshes.batch_sharding(mesh))).block_until_ready()
"""


@pytest.mark.parametrize("devices, names", [(1, {"before", "after"}), (2, {"before"})])
def test_programs_for_several_cpu_devices_are_not_taken_from_the_store(tmp_path, devices, names):
    settings = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    program = STORED.replace("DEVICES", str(devices))
    subprocess.run([sys.executable, "-c", program], env=os.environ | settings, check=True)
    stored = {path.name.split("-")[0].removeprefix("jit_") for path in tmp_path.iterdir()}
    assert stored & {"before", "after"} == names


def test_another_platform_than_the_one_that_is_meant_is_refused():
    assert meshes.make_mesh(platform="cpu", devices=jax.devices()[:1]).size == 1
    with pytest.raises(ConfigError, match="config.mesh.platform gpu is meant, but .* finds a cpu; .*cuda"):
        meshes.make_mesh(platform="gpu", devices=jax.devices()[:1])


def gpus(nodes, per_node, **attributes):
    """Stand-ins for the devices of several nodes, in the order in which jax lists them."""
    return [
        types.SimpleNamespace(
            id=number,
            platform="gpu",
            device_kind="H100",
            process_index=number // per_node,
            **{name: at(number) for name, at in attributes.items()},
        )
        for number in range(nodes * per_node)
    ]


@pytest.mark.parametrize(
    "shape, groups, expected",
    [
        ((32, 1, 1), 4, (4, 1, 1)),
        ((4, 8, 1), 4, (4, 1, 1)),
        ((8, 2, 2), 4, (4, 1, 1)),
        ((2, 16, 1), 4, (2, 2, 1)),
        ((1, 32, 1), 4, (1, 4, 1)),
        ((6, 4, 1), 4, (2, 2, 1)),
        ((5, 2, 1), 1, (1, 1, 1)),
    ],
)
def test_the_slow_network_lies_on_the_first_axis_that_can_span_it(shape, groups, expected):
    assert meshes.slow_shape(shape, groups) == expected


def test_processes_are_the_groups_where_devices_know_no_slice():
    arranged = meshes.arrange((4, 4, 2), gpus(4, 8))
    assert arranged.shape == (4, 4, 2)
    for node in range(4):  # fsdp and tensor stay inside a node
        assert {device.process_index for device in arranged[node].flat} == {node}


def test_slices_are_the_groups_where_devices_know_theirs():
    # Two slices of two processes each, listed in another order.
    devices = gpus(4, 2, slice_index=lambda number: (number // 2) % 2)
    assert meshes.fast_groups(devices) == (False, 2)
    arranged = meshes.arrange((2, 4, 1), devices)
    for place in range(2):
        assert len({device.slice_index for device in arranged[place].flat}) == 1
    assert sorted(device.id for device in arranged.flat) == list(range(8))


def test_processes_may_not_share_rows():
    meshes._check_rows(meshes.arrange((2, 1, 2), gpus(2, 2)))
    with pytest.raises(ConfigError, match="config.mesh.tensor 4 spans the processes 0, 1"):
        meshes._check_rows(meshes.arrange((1, 1, 4), gpus(2, 2)))


@pytest.mark.parametrize(
    "axes, shape, words",
    [
        (("vocabulary", "embed"), (410, 128), ["config.mesh.tensor 3", "410 of axis 'vocabulary'", "text/tokens"]),
        (("embed", "qkv", "heads", "head_dim"), (128, 3, 4, 32), ["config.mesh.tensor 3", "4 of axis 'heads'"]),
        (("embed", "mlp"), (127, 12), ["config.mesh.fsdp 2", "127 of axis 'embed'", "divisor of 127"]),
    ],
)
def test_a_parameter_that_does_not_divide_names_axis_sizes_and_key(axes, shape, words):
    mesh = types.SimpleNamespace(shape=dict(data=1, fsdp=2, tensor=3))
    rules.check_divides("text/tokens", (12,) * len(axes), axes, mesh)
    with pytest.raises(ConfigError) as error:
        rules.check_divides("text/tokens", shape, axes, mesh)
    assert all(word in str(error.value) for word in words), error.value
