"""A tiny untrained model and a few scenes, for all tests of evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from harmopower.config import get_config
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.evaluation.encoder import Encoder
from harmopower.models import clip

SIZE, LENGTH, BATCH = 64, 16, 16


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return scenes.prepare(
        tmp_path_factory.mktemp("scenes"), train=8, test=40, test_unseen=20, image_size=SIZE, processes=1
    )


@pytest.fixture(scope="session")
def tokenizer(data):
    return Tokenizer.train([example["captions"][0] for example in records.read(data, "test")], 300)


@pytest.fixture
def config(data):
    config = get_config()
    config.data.source, config.data.image_size, config.data.context_length = str(data), SIZE, LENGTH
    config.model.preset, config.model.pool, config.evaluation.batch_size = "tiny", "mean", BATCH
    return config


@pytest.fixture(scope="session")
def model_and_params(tokenizer):
    config = get_config()
    config.data.image_size, config.data.context_length = SIZE, LENGTH
    config.model.preset, config.model.pool = "tiny", "mean"
    model = clip.from_config(config, tokenizer.vocab_size, tokenizer.eot_id)
    images, ids = jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8), jnp.zeros((1, LENGTH), jnp.int32)
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), images, ids))["params"]


@pytest.fixture(scope="session")
def encoder(model_and_params, tokenizer):
    return Encoder(*model_and_params, tokenizer, SIZE, LENGTH, BATCH, region_pooling="overlap")
