"""Small models with random weights in every parameter, and a run's folder that holds one."""

import functools
import json

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from harmopower import config as configs
from harmopower.data.tokenize import Tokenizer
from harmopower.interop import export, source
from harmopower.training.checkpoints import CheckpointWriter
from harmopower.training.state import TrainState

TINY = "patch8-shared16-vision32x2x2-text24x2x3"
CAPTIONS = ("a red circle", "a small blue square left of a green star", "two yellow hearts above a cross")


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 300)


def settings(preset=TINY, image_size=32, context_length=16, kind="softmax", resize_mode="squash", **model):
    config = configs.get_config()
    config.data.update(dict(image_size=image_size, context_length=context_length, resize_mode=resize_mode))
    config.model.update({"preset": preset} | model)
    config.objective.global_contrastive.kind = kind
    return config


def random_params(config, seed=0, vocabulary=None):
    """Parameters by flat name; norms near one, everything else small, nothing zero."""
    rng = np.random.default_rng(seed)
    flat = {}
    for name, shape in source.config_shapes(config, vocabulary or tokenizer().vocab_size).items():
        noise = rng.normal(0, 0.04, shape).astype(np.float32)
        flat[name] = np.float32(1) + noise if name.endswith("/scale") else noise
    flat["logit_scale"] = np.float32(np.log(20))
    return flat


def nested(flat):
    return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat, sep="/"))


def write_run(folder, config, flat, step=5, metrics=None):
    """A workdir as training leaves it."""
    folder.mkdir()
    (folder / "config.json").write_text(configs.to_json(config))
    tokenizer().save(folder / "tokenizer.json")
    with CheckpointWriter(str(folder)) as checkpoints:
        checkpoints.save(step, TrainState(jnp.full((), step, jnp.int32), nested(flat), ()), {})
    if metrics:
        (folder / "eval.json").write_text(json.dumps({"step": step, "metrics": metrics}))
    return folder


def write_export(folder, name, config, flat, say=lambda _: None, **how):
    """An exported folder, proven on the way."""
    model = export.exported_model(config, tokenizer())
    export.export(name, model, lambda: (5, nested(flat)), tokenizer(), config, folder, say=say, **how)
    return model
