"""A small run for the tests of training: 24 scenes, the tiny preset at 64 px, all objectives on."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from harmopower import runs
from harmopower import workdir as workdirs
from harmopower.config import get_config
from harmopower.data import pipeline as pipelines
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.models import clip
from harmopower.objectives import total
from harmopower.parallel import mesh as meshes
from harmopower.training import groups as training_groups
from harmopower.training import loop, teacher
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps
from harmopower.training.signals import StopSignal

OFF = {f"objective__{name}__weight": 0.0 for name in ("lexeme_region", "global_region", "powerset")}


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


def global_config(source: str, **settings):
    """The same with the global loss alone: what no objective changes is tested sooner with it."""
    return small_config(source, **OFF, **settings)


def train(config, workdir, mesh=None, stop=None, evaluate=lambda params, step: {}, allow="", look=None) -> int:
    """Runs the loop in this process."""
    mesh = mesh or meshes.make_mesh(devices=jax.devices()[:1])
    tokenizer, pipeline = runs.open_data(config)
    model = runs.build_model(config, tokenizer)
    begin, stop = workdirs.prepare(str(workdir), config, tokenizer, allow), stop or StopSignal()
    return loop.train(config, str(workdir), model, pipeline, mesh, stop, evaluate, begin=begin, look=look)


MICRO = "patch16-shared16-vision16x3x2-text16x2x2"  # three blocks and two, soon compiled


def micro(**settings):
    """Config, model and random batch of a run of the global loss alone, with 16 channels."""
    config = get_config()
    config.batch_size, config.total_steps, config.optimizer.warmup_steps = 16, 20, 0
    config.data.update(dict(image_size=32, context_length=8, max_phrases=2, max_boxes=2))
    config.model.preset = MICRO
    config.objective.lexeme_region.weight = config.objective.powerset.weight = 0.0
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    model = clip.from_config(config, 64, 63, total.scales(config.objective))
    batch = pipelines.empty_batch(config.data, config.batch_size, grid=model.grid, region_text=False)
    rng = np.random.default_rng(0)
    batch["image"] = rng.integers(0, 256, batch["image"].shape).astype(np.uint8)
    batch["tokens"] = rng.integers(1, 64, batch["tokens"].shape).astype(np.int32)
    batch["weight"] = np.ones(config.batch_size, np.float32)
    return config, model, batch


def micro_crops(**settings):
    """The same with three random boxes an image, of which some are missing, and a loss against their crops alone."""
    settings = {"data__max_boxes": 3, "objective__global_region__mode": "crop", **settings}
    config, model, batch = micro(
        objective__global_region__weight=1.0, objective__global_contrastive__weight=0.0, init="weights", **settings
    )
    rng = np.random.default_rng(1)
    corners = np.sort(rng.random((*batch["boxes"].shape[:2], 2, 2), dtype=np.float32), axis=2)
    batch["boxes"] = corners.reshape(batch["boxes"].shape)
    batch["box_valid"] = rng.random(batch["box_valid"].shape) < 0.8
    return config, model, batch


def micro_steps(config, model, batch, mesh, steps_done: int, bad=()):
    """The states before and after so many steps on one batch; those of the numbers in `bad` have a loss of nan.

    Returns:
      the states, as NumPy arrays, and the metrics of the last step.
    """
    optimizer, metrics = optimizers.make_optimizer(config), {}
    broken = {**batch, "weight": np.full_like(batch["weight"], np.nan)}
    good, broken = (loop.to_devices(rows, mesh) for rows in (batch, broken))
    kept = teacher.kept(config)
    with jax.set_mesh(mesh):
        state = states.create(model, optimizer, mesh, 0, **kept)
        places = states.shardings(model, optimizer, mesh, **kept)
        train_step = steps.make_train_step(model, optimizer, config, mesh, places)
        seen = [jax.tree.map(np.array, state)]
        for step in range(steps_done):
            state, metrics = train_step(state, broken if step in bad else good, jax.random.key(0))
            seen.append(jax.tree.map(np.array, state))
    return seen, metrics


def freeze_for_twenty_steps(groups: str, mesh, name: str, accumulate: int):
    """Asserts that what `groups` freezes stays to the bit, has no optimizer state, and that all else moves.

    Returns:
      the parameters after the last step.
    """
    config, model, batch = micro(optimizer__groups=groups, optimizer__name=name, accumulate=accumulate)
    seen, _ = micro_steps(config, model, batch, mesh, 20)
    before, after = (traverse_util.flatten_dict(state.params) for state in (seen[0], seen[-1]))
    leaves = jax.tree_util.tree_leaves_with_path(seen[-1].optimizer_state)
    state = [(keys(path), leaf.shape) for path, leaf in leaves]
    for key, factors in training_groups.factors(config.optimizer, seen[0].params).items():
        moved = before[key] != after[key]
        for block, factor in enumerate(factors):
            assert (moved[block] if len(factors) > 1 else moved).any() == (factor > 0), (key, block)
        held = [shape for path, shape in state if path[-len(key) :] == key]
        expected = (int((factors > 0).sum()), *before[key].shape[1:]) if len(factors) > 1 else before[key].shape
        assert all(shape == expected for shape in held) and bool(held) == bool(factors.any()), key
    return seen[-1].params


def keys(path) -> tuple[str, ...]:
    """The names of a path in a tree of dictionaries."""
    return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


def average_six_steps(mesh, accumulate: int, groups: str = ""):
    """Asserts that the moving average is the float64 recursion, and that two skipped updates do not move it.

    Returns:
      the states, the first one included.
    """
    decay = 0.7
    config, model, batch = micro(optimizer__ema=decay, optimizer__groups=groups, accumulate=accumulate)
    seen, _ = micro_steps(config, model, batch, mesh, 6, bad=(2, 3))
    assert bits(seen[0].ema) == bits(seen[0].params)
    assert bits(seen[2].ema) == bits(seen[3].ema) == bits(seen[4].ema) != bits(seen[5].ema)
    average = jax.tree.map(np.float64, seen[0].params)
    for step in (1, 2, 5, 6):  # the others were skipped
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, seen[step].params)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
        jax.tree.map(close, seen[step].ema, average)
    return seen


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
