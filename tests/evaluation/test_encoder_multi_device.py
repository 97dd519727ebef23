"""Parameters and batches spread over a mesh give the results of one device, whatever the number of examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.evaluation import running
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.preparing import Row
from harmopower.evaluation.suites.records import RecordsTask
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

TEXTS = ["a red circle", "a blue square"] * 6


def encode(encoder, data):
    task, size = RecordsTask(data, "test", [], 8), encoder.share.batch_size
    rows = [Row(index, task.prepare(task.source[index], encoder.view)) for index in range(10)]
    found = encoder.encode_images(rows + [Row(-1, None)] * (size - 10))
    return size, found.indices, found.images, found.regions, encoder.encode_texts(TEXTS)


def place(model, params, mesh):
    images, ids = jnp.zeros((1, model.image_size, model.image_size, 3), jnp.uint8), jnp.zeros((1, 8), jnp.int32)
    spec = nn.get_partition_spec(jax.eval_shape(lambda: model.init(jax.random.key(0), images, ids)))["params"]
    return jax.device_put(params, nn.logical_to_mesh_sharding(spec, mesh, rules.LOGICAL_AXIS_RULES))


def test_mesh_gives_the_embeddings_of_one_device(model_and_params, tokenizer, data):
    model, params = model_and_params
    size, *alone = encode(Encoder(model, params, tokenizer, 64, 16, 10), data)
    assert size == 10
    mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        size, *spread = encode(Encoder(model, place(model, params, mesh), tokenizer, 64, 16, 10), data)
    assert size == 12  # 10 does not divide over 2 x 2 devices
    for one, many in zip(alone, spread, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("devices, batch_size", [(2, 6), (8, 24)])
def test_any_number_of_devices_finds_the_same_numbers(
    model_and_params, tokenizer, config, encoder, devices, batch_size
):
    expected = running.run(config, encoder)  # one device, batches of 16; the last one is uneven in both
    model, params = model_and_params
    mesh = meshes.make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        many = Encoder(model, place(model, params, mesh), tokenizer, 64, 16, batch_size, region_pooling="overlap")
        assert running.run(config, many) == expected
