"""The train step: exact accumulation, falling loss, clamped temperatures, crops."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmopower import runs
from harmopower.models import vision
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps
from tests.training import common


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return common.prepare(tmp_path_factory.mktemp("data"))


def setting(source, **settings):
    config = common.small_config(source, **settings)
    tokenizer, pipeline = runs.open_data(config)
    return config, runs.build_model(config, tokenizer), jax.tree.map(jnp.asarray, pipeline.batch(0))


@pytest.mark.parametrize(
    "dense, every, slices, share_steps",
    [pytest.param("full", 1, (2, 4), 0, marks=pytest.mark.slow), ("value", 2, (4,), 9)],
)
def test_accumulation_gives_the_gradient_of_the_whole_batch(source, dense, every, slices, share_steps):
    """Also where patches and the powerset's negatives are drawn: once for the batch, whatever the slices."""
    config, model, batch = setting(source, model__patch_dropout=0.5, model__dense=dense, data__region_text_every=every)
    drawn = {"negatives": "hardest_of", "negative_share_steps": share_steps} if share_steps else {}
    config.objective.powerset.update(drawn)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    params = states.create(model, optimizers.make_optimizer(config), mesh, 0).params
    batch["weight"] = batch["weight"].at[3].set(0)

    def gradient(count):
        config.accumulate = count
        return jax.jit(lambda params: steps.gradient(model, config, params, batch, 5, jax.random.key(0)))(params)

    whole, metrics = gradient(1)
    for count in slices:
        sliced, sliced_metrics = gradient(count)
        assert metrics.keys() == sliced_metrics.keys()
        np.testing.assert_allclose(metrics["loss/total"], sliced_metrics["loss/total"], rtol=1e-6)
        difference = optax.tree.norm(jax.tree.map(jnp.subtract, whole, sliced))
        assert difference <= 1e-5 * optax.tree.norm(whole)


def test_every_step_computes_other_patches_and_only_those(source):
    config, model, batch = setting(source, model__patch_dropout=0.75)
    params = states.create(
        model, optimizers.make_optimizer(config), meshes.make_mesh(devices=jax.devices()[:1]), 0
    ).params
    loss = jax.jit(lambda key: steps.gradient(model, config, params, batch, 5, key)[1]["loss/global_contrastive"])
    first, again, other = (float(loss(jax.random.key(key))) for key in (0, 0, 1))
    assert first == again != other
    cost = lambda share: flops(model, params, batch, vision.kept_patches(model.grid, share))
    assert cost(0.75) < 0.5 * cost(0.0)


def flops(model, params, batch, kept):
    """Counted by XLA: the image tower on so many patches of each image."""
    patches = jnp.tile(jnp.arange(kept), (len(batch["image"]), 1))
    encode = lambda params: model.apply({"params": params}, batch["image"], patches, method="encode_image").pooled
    return jax.jit(encode).lower(params).compile().cost_analysis()["flops"]


def test_loss_falls_on_one_batch(source):
    config, model, batch = setting(source, total_steps=100, optimizer__learning_rate=3e-4)
    mesh, optimizer = meshes.make_mesh(devices=jax.devices()[:1]), optimizers.make_optimizer(config)
    with jax.set_mesh(mesh):
        state = states.create(model, optimizer, mesh, 0)
        train_step = steps.make_train_step(model, optimizer, config, mesh, states.shardings(model, optimizer, mesh))
        seen = []
        for _ in range(25):
            state, metrics = train_step(state, batch, jax.random.key(0))
            seen.append({name: float(value) for name, value in metrics.items()})
    for name in ("loss/total", "loss/global_contrastive", "loss/lexeme_region", "loss/global_region", "loss/powerset"):
        assert seen[-1][name] < 0.8 * seen[0][name], name


@pytest.mark.slow
def test_a_bfloat16_step_is_the_float32_step_but_for_rounding(source):
    """All objectives: every loss within 2 %, the update of the whole step in nearly the same direction."""

    def step(dtype):
        config, model, batch = setting(source, model__dtype=dtype)
        mesh, optimizer = meshes.make_mesh(devices=jax.devices()[:1]), optax.sgd(1.0)  # the update is the gradient
        with jax.set_mesh(mesh):
            train_step = steps.make_train_step(model, optimizer, config, mesh, states.shardings(model, optimizer, mesh))
            start = states.create(model, optimizer, mesh, 0)
            before = jax.tree.map(np.array, start.params)
            state, metrics = train_step(start, batch, jax.random.key(0))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
        moved = jax.tree.leaves(jax.tree.map(lambda after, old: np.ravel(after - old), state.params, before))
        return metrics, np.concatenate(moved)

    (exact, update), (rounded, rough) = step("float32"), step("bfloat16")
    names = [name for name in exact if name.startswith("loss/")]
    assert len(names) == 5
    for name in names:
        np.testing.assert_allclose(rounded[name], exact[name], rtol=0.02, err_msg=name)
    assert update @ rough > 0.98 * np.linalg.norm(update) * np.linalg.norm(rough)


def test_a_bad_update_changes_nothing_but_the_step(source):
    common.skip_a_bad_update(source, meshes.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.slow
def test_region_texts_take_turns(source):
    """Loss and gradient are those of a batch in which only the images whose turn it is have texts."""
    config, model, batch = setting(source, data__region_text_every=4)
    batch["box_alone"] = batch["box_phrase"] < 0
    params = states.create(
        model, optimizers.make_optimizer(config), meshes.make_mesh(devices=jax.devices()[:1]), 0
    ).params
    gradient = jax.jit(
        lambda batch, every: steps.gradient(
            model, common.small_config("", data__region_text_every=every), params, batch, 6, jax.random.key(0)
        ),
        static_argnums=1,
    )
    chosen = jnp.zeros(8, bool).at[jnp.array([2, 5])].set(True)  # step 6 of every 4
    few = {**batch, "box_tokens": jnp.where(chosen[:, None, None], batch["box_tokens"], 0)}
    whole, by_turns, by_hand = gradient(batch, 1), gradient(batch, 4), gradient(few, 1)
    assert by_turns[1]["global_region/pairs"] < whole[1]["global_region/pairs"] / 2
    for name, value in by_hand[1].items():
        np.testing.assert_allclose(by_turns[1][name], value, rtol=1e-6, err_msg=name)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, by_turns[0], by_hand[0]))
    assert difference <= 1e-6 * optax.tree.norm(by_hand[0])


def test_temperatures_are_clamped_to_one_hundred():
    model = types.SimpleNamespace(learnt=(("logit_scale", 0, True), ("region_scale", 0, True), ("other", 0, False)))
    params = {"logit_scale": jnp.float32(7.0), "region_scale": jnp.float32(1.0), "other": 9.0, "vision": {}}
    clamped = steps._clamp_scales(model, params)
    assert jnp.exp(clamped["logit_scale"]) == pytest.approx(100, rel=1e-5)
    assert clamped["region_scale"] == 1.0 and clamped["other"] == 9.0


def test_content_tokens_lie_between_start_and_end():
    ids = jnp.array([[8, 3, 4, 9, 0], [8, 9, 0, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(
        steps.content_tokens(ids, 9), [[False, True, True, False, False], [False] * 5, [False] * 5]
    )


def test_crops_show_the_enlarged_box():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 8:16, 16:24] = 255
    boxes = jnp.array([[[0.25, 0.5, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0]]])
    exact = vision.crop_boxes(jnp.asarray(image), boxes, 1.0)
    assert exact.shape == (1, 2, 32, 32, 3)
    np.testing.assert_allclose(exact[0, 0, 4:-4, 4:-4], 1.0, atol=1e-5)  # the box fills its crop
    np.testing.assert_allclose(exact[0, 1], image[0] / 255, atol=1e-5)  # the whole image stays as it is
    wide = vision.crop_boxes(jnp.asarray(image), boxes, 1.5)[0, 0]
    assert wide.mean() == pytest.approx(1 / 1.5**2, abs=0.01)
