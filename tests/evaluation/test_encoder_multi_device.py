"""Parameters and batches spread over a mesh give the embeddings of one device."""

import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from harmopower.config import get_config
from harmopower.data.tokenize import Tokenizer
from harmopower.evaluation.encoder import Encoder
from harmopower.models import clip
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

SIZE, LENGTH = 64, 8
TEXTS = ["a red circle", "a blue square"] * 6


def example(index: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(buffer, "PNG")
    region = {"box": np.array([0.1, 0.2, 0.6, 0.9], np.float32), "caption": -1, "start": -1, "end": -1}
    return {"id": str(index), "image": buffer.getvalue(), "captions": ["a"], "regions": [region] * (index % 3)}


def encode(model, params, tokenizer):
    encoder = Encoder(model, params, tokenizer, SIZE, LENGTH, 10)
    images, regions = encoder.encode_images([encoder.prepare(example(index)) for index in range(12)])
    return encoder.batch_size, images, regions, encoder.encode_texts(TEXTS)


def test_mesh_gives_the_embeddings_of_one_device():
    tokenizer = Tokenizer.train(TEXTS, 300)
    config = get_config()
    config.data.image_size, config.data.context_length, config.model.preset = SIZE, LENGTH, "tiny"
    model = clip.from_config(config, tokenizer.vocab_size, tokenizer.eot_id)
    inputs = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8), jnp.zeros((1, LENGTH), jnp.int32)
    boxed = jax.jit(model.init)(jax.random.key(0), *inputs)
    size, *alone = encode(model, nn.unbox(boxed)["params"], tokenizer)
    assert size == 10
    mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
    placed = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, rules.LOGICAL_AXIS_RULES)
    params = jax.device_put(nn.unbox(boxed), placed)["params"]
    with jax.set_mesh(mesh):
        size, *spread = encode(model, params, tokenizer)
    assert size == 12  # 10 does not divide over 2 x 2 devices
    for one, many in zip(alone, spread, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)
