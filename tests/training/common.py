"""A small run for the tests of training: 24 scenes, the tiny preset at 64 px, all objectives on."""

import jax
import jax.numpy as jnp
import numpy as np

from harmopower import runs
from harmopower import workdir as workdirs
from harmopower.config import get_config
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.parallel import mesh as meshes
from harmopower.training import loop
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps
from harmopower.training.signals import StopSignal


def prepare(directory, **changes) -> str:
    """A prepared data set of 24 scenes, 32 px, with its tokenizer; the changes are the fields of the first one."""
    examples = [scenes.make_example("train", index, image_size=32) for index in range(24)]
    records.write(directory, {"train": [examples[0] | changes, *examples[1:]]}, name="scenes")
    Tokenizer.train(
        (example["captions"][0] for example in records.read(directory, "train")), 320, directory / "tokenizer.json"
    )
    return str(directory)


def small_config(source: str, **settings):
    """All three objectives at batch 8 for six steps."""
    config = get_config()
    config.total_steps, config.batch_size, config.log.every_steps = 6, 8, 1
    config.data.update(
        dict(
            source=source, image_size=64, context_length=20, max_phrases=4, max_boxes=3, region_text_length=8, threads=1
        )
    )
    config.model.update(dict(preset="tiny", pool="mean"))
    config.objective.global_region.weight = 0.1
    config.optimizer.warmup_steps = 2
    config.log.tensorboard = False
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


def train(config, workdir, mesh=None, stop=None, evaluate=lambda params, step: {}, allow="") -> int:
    """Runs the loop in this process."""
    mesh = mesh or meshes.make_mesh(devices=jax.devices()[:1])
    tokenizer, pipeline = runs.open_data(config)
    model = runs.build_model(config, tokenizer)
    begin = workdirs.prepare(str(workdir), config, tokenizer, allow)
    return loop.train(config, str(workdir), model, pipeline, mesh, stop or StopSignal(), evaluate, begin=begin)


def losses(rows) -> list[dict]:
    """The loss columns of metric rows."""
    return [{name: value for name, value in row.items() if name.startswith("loss/")} for row in rows]


def bits(tree) -> list[bytes]:
    """The leaves, for a comparison to the bit."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def skip_a_bad_update(source: str, mesh, **settings) -> None:
    """Asserts that a bad row changes nothing but the step, and that the next update is what it would have been."""
    config = small_config(source, **settings)
    tokenizer, pipeline = runs.open_data(config)
    model, optimizer = runs.build_model(config, tokenizer), optimizers.make_optimizer(config)
    batch, key = pipeline.batch(0), jax.random.key(0)
    weight = np.where(np.arange(len(batch["weight"])) == 3, np.nan, batch["weight"]).astype(np.float32)
    batch, bad = (loop.to_devices(rows, mesh) for rows in (batch, {**batch, "weight": weight}))
    with jax.set_mesh(mesh):
        train_step = steps.make_train_step(model, optimizer, config, mesh, states.shardings(model, optimizer, mesh))
        start = states.create(model, optimizer, mesh, 0)
        before = bits((start.params, start.optimizer_state))
        skipped, metrics = train_step(start, bad, key)
        assert metrics["skipped_updates"] == 1 and not jnp.isfinite(metrics["loss/total"]) and skipped.step == 1
        assert bits((skipped.params, skipped.optimizer_state)) == before
        after, metrics = train_step(skipped, batch, key)
        assert metrics["skipped_updates"] == 0 and after.step == 2
        straight, _ = train_step(states.create(model, optimizer, mesh, 0), batch, key)
    assert bits((after.params, after.optimizer_state)) == bits((straight.params, straight.optimizer_state)) != before
