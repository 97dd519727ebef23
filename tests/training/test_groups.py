"""What is trained and how fast: patterns, recipes, layer decay; what is frozen has no gradient and no state."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmopower import runs
from harmopower.config import get_config
from harmopower.errors import CommandError, ConfigError
from harmopower.parallel import mesh as meshes
from harmopower.training import accounting, groups, loop, planning
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps
from harmopower.training.checkpoints import CheckpointError
from tests.training import common

MIXED = "text/*=0,text/projection=0.5,vision/*=0,vision/transformer/blocks/[12]/*=0.1,vision/norm_post/*=2"


@functools.cache
def params():
    return states.shapes(common.micro()[1])


def named(text="", layer_decay=1.0):
    """Factors by name, of blocks with their number."""
    settings = get_config().optimizer
    settings.groups, settings.layer_decay = text, layer_decay
    places, found = groups._places(params()), groups.factors(settings, params())
    return {place.name: factor for key, each in found.items() for place, factor in zip(places[key], each, strict=True)}


def test_the_last_pattern_that_matches_counts_and_blocks_have_numbers():
    found = named(MIXED)
    assert found["text/tokens"] == found["text/transformer/blocks/1/out/bias"] == found["vision/position"] == 0
    assert found["text/projection"] == 0.5 and found["vision/norm_post/scale"] == 2 and found["logit_scale"] == 1
    for name, block in (("qkv/kernel", 0), ("mlp_in/bias", 1), ("norm_2/scale", 2)):
        assert found[f"vision/transformer/blocks/{block}/{name}"] == (0.1 if block else 0)
    assert {
        named("vision/transformer/blocks/out/*=0")[f"vision/transformer/blocks/{i}/out/bias"] for i in range(3)
    } == {0}  # the name as checkpoints have it


def test_recipes():
    assert all((factor == 0) == name.startswith("vision/") for name, factor in named("lock_image").items())
    assert all((factor == 0) == name.startswith("text/") for name, factor in named("lock_text").items())
    trained = {name for name, factor in named("last_blocks=1").items() if factor}
    last = {name for name in named() if name.startswith(("vision/transformer/blocks/2/", "text/transformer/blocks/1/"))}
    heads = {"vision/projection", "vision/norm_post/scale", "vision/norm_post/bias"}
    heads |= {"text/projection", "text/norm_final/scale", "text/norm_final/bias", "logit_scale"}
    assert trained == last | heads and len(last) == 24


@pytest.mark.slow
def test_a_frozen_scale_and_bias_stay_to_the_bit_also_above_the_clamp():
    """Of a sigmoid model that comes with SigLIP's scale; all else moves, and unfrozen the scale is clamped."""
    kept = np.float32([np.log(117), -12.9])

    def step(text):
        config, model, batch = common.micro(optimizer__groups=text, objective__global_contrastive__kind="sigmoid")
        optimizer, mesh = optimizers.make_optimizer(config), meshes.make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            state = states.create(model, optimizer, mesh, 0)
            start = {**state.params, "logit_scale": jnp.array(kept[0]), "logit_bias": jnp.array(kept[1])}
            before = jax.tree.map(np.array, start)
            places = states.shardings(model, optimizer, mesh)
            train_step = steps.make_train_step(model, optimizer, config, mesh, places)
            state, _ = train_step(states.starting_from(start, state), loop.to_devices(batch, mesh), jax.random.key(0))
        return before, state

    before, state = step("logit_scale=0,logit_bias=0")
    scalars = np.array([state.params["logit_scale"], state.params["logit_bias"]])
    np.testing.assert_array_equal(scalars, kept)
    assert not any({"logit_scale", "logit_bias"} & {*common.keys(path)} for path, _ in leaves(state.optimizer_state))
    moved = jax.tree.map(lambda old, new: (old != np.asarray(new)).any(), before, state.params)
    assert moved["vision"]["projection"] and moved["text"]["projection"]
    free = step("")[1].params
    assert jnp.exp(free["logit_scale"]) == pytest.approx(100, rel=1e-5) and free["logit_bias"] != kept[1]


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def test_layer_decay_by_name():
    """MAE's: 1 behind the blocks, one factor more for each block, the embeddings last."""
    found, seen = named("text/*=0.5", layer_decay=0.5), set()
    for tower, depth, own in (("vision", 3, 1.0), ("text", 2, 0.5)):
        for name, factor in found.items():
            parts = name.split("/")
            if parts[0] != tower:
                continue
            above = depth - int(parts[3]) if "blocks" in parts else depth + 1
            above = 0 if parts[1] in ("projection", "norm_post", "norm_final") else above
            assert factor == own * 0.5**above, name
            seen.add(name)
    assert found.keys() - seen == {"logit_scale"} and found["logit_scale"] == 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("txt/*=0", "'txt/\\*=0' matches no parameter; there are .*text/transformer/blocks/1, vision/class_token"),
        ("text/*=0,vision/transformer/blocks/3/*=0", "blocks/3/.*matches no parameter"),
        ("last_blocks=4", "last_blocks=4.*matches no parameter"),
        ("lock_image,lock_text,logit_scale=0", "freezes every parameter"),
    ],
)
def test_what_matches_nothing_or_all_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        named(text)


@pytest.mark.parametrize("text", ["text/*", "text/*=-1", "text/*=nan", "=0", "last_blocks=0", "last_blocks=1.5", "a,"])
def test_what_is_no_rule_is_refused_before_anything_is_read(text):
    config = get_config()
    config.optimizer.groups = text
    with pytest.raises(ConfigError, match="config.optimizer.groups has .* is no PATTERN=FACTOR"):
        runs.check(config, "cpu")


def gradient(text, accumulate=1):
    config, model, batch = common.micro(optimizer__groups=text, accumulate=accumulate)
    state = states.create(model, optax.sgd(1.0), meshes.make_mesh(devices=jax.devices()[:1]), 0)
    batch = jax.tree.map(jnp.asarray, batch)
    found = jax.jit(lambda params: steps.gradient(model, config, params, batch, 0, jax.random.key(0))[0])(state.params)
    return traverse_util.flatten_dict(found, sep="/")


def test_the_gradient_is_that_of_the_trained_parameters():
    whole, part = gradient(""), gradient(MIXED, accumulate=2)
    assert {name for name in part if name.startswith("text")} == {"text/projection"}
    assert {name for name in part if name.startswith("vision") and "blocks" not in name} == {
        "vision/norm_post/bias",
        "vision/norm_post/scale",
    }
    for name, found in part.items():
        expected = whole[name][1:] if "vision/transformer/blocks" in name else whole[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_factor_is_one_of_the_whole_update():
    """With weight decay in it; clipping sees the gradient as it is."""
    rng = np.random.default_rng(0)
    start = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), np.float32), params())
    gradients = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape), np.float32), params())

    def update(text, layer_decay):
        config = common.micro(optimizer__groups=text, optimizer__layer_decay=layer_decay)[0]
        optimizer = optimizers.make_optimizer(config)
        return jax.jit(lambda gradients, start: optimizer.update(gradients, optimizer.init(start), start)[0])(
            gradients, start
        )

    plain, scaled = update("", 1.0), update("text/*=0.25", 0.5)
    np.testing.assert_allclose(scaled["text"]["projection"], 0.25 * plain["text"]["projection"], rtol=1e-6)
    blocks, scaled = (tree["vision"]["transformer"]["blocks"]["mlp_in"]["kernel"] for tree in (plain, scaled))
    assert np.abs(blocks).min() > 0
    for block, factor in enumerate((0.125, 0.25, 0.5)):
        np.testing.assert_allclose(scaled[block], factor * blocks[block], rtol=1e-6)


@pytest.mark.parametrize("name, accumulate", [("adamw", 2), pytest.param("muon", 1, marks=pytest.mark.slow)])
def test_frozen_parameters_are_bit_equal_after_twenty_steps(name, accumulate):
    common.freeze_for_twenty_steps(MIXED, meshes.make_mesh(devices=jax.devices()[:1]), name, accumulate)


def plan(text):
    """Bytes of the state, of the gradients and of the activations; operations as XLA and as we count them."""
    config, model, _ = common.micro(optimizer__groups=text, batch_size=8, model__scan_unroll=3)
    step = planning.Step(config, lambda _: model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(step._mesh):
        places = states.shardings(model, step._optimizer, step._mesh)
        lowered = steps.make_train_step(model, step._optimizer, step.config, step._mesh, places).lower(
            step._state, step._batch(), key
        )
    operations = lowered.cost_analysis()["flops"], accounting.step_flops(config)["towers"]
    return np.array([step.arguments()["state"], step.arguments()["gradients"], step.activations(), *operations])


def test_what_is_frozen_costs_neither_memory_nor_work():
    whole, last = plan(""), plan("lock_text,last_blocks=1")
    assert (last < 0.9 * whole).all(), (whole, last)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params()))
    assert whole[1] == 4 * parameters and whole[0] - last[0] == 2 * (whole[1] - last[1])


def test_counted_operations_of_locked_towers():
    config = get_config()
    both = accounting.step_flops(config)["towers"]
    config.optimizer.groups = "lock_image"
    image = accounting.image_flops(config) * config.batch_size
    assert accounting.step_flops(config)["towers"] == both - 2 * image
    config.optimizer.groups = "last_blocks=3"
    assert accounting.step_flops(config)["towers"] == pytest.approx(both / 3 * (1 + 2 * 3 / 12))


@pytest.mark.slow
def test_a_run_goes_on_and_one_of_other_groups_is_refused(tmp_path):
    source = common.prepare(tmp_path / "data")

    def config(text, total):
        return common.small_config(
            source,
            model__preset=common.MICRO,
            optimizer__groups=text,
            total_steps=total,
            objective__powerset__weight=0.0,
            objective__lexeme_region__weight=0.0,
            objective__global_region__weight=0.0,
        )

    with pytest.raises(ConfigError, match="'vison/\\*=0' matches no parameter"):
        common.train(config("vison/*=0", 3), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    assert common.train(config("text/*=0", 3), tmp_path / "run") == 0
    assert common.train(config("text/*=0", 4), tmp_path / "run") == 0
    with pytest.raises(CommandError, match="config.optimizer.groups 'text/\\*=0' there, 'vision/\\*=0' here"):
        common.train(config("vision/*=0", 5), tmp_path / "run")
    with pytest.raises(CheckpointError, match="fits the model, but not the optimizer: .*text/.*is not in the check"):
        common.train(config("vision/*=0", 5), tmp_path / "run", allow="optimizer.groups")
