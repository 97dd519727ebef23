"""Regions that learn from their crops: in chunks, by the model, its average or the model of the start."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmopower.features import regions
from harmopower.models import vision
from harmopower.parallel import mesh as meshes
from harmopower.training import loop, teacher
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps
from harmopower.training.checkpoints import CheckpointError, Checkpoints, CheckpointWriter
from tests.training import common

PROGRAMS = {}  # the compiled step of each teacher


@pytest.fixture(scope="module")
def mesh():
    return meshes.make_mesh(devices=jax.devices()[:1])


def literal_loss(model, params, taught_by, batch, pooling):
    """One minus the cosine between each region and its crop, which is encoded alone, all of them at once."""
    encode = lambda params, images: model.apply({"params": params}, images, method="encode_image")
    phi, mask = regions.pool_regions(
        encode(params, batch["image"]).tokens, batch["boxes"], batch["box_valid"], model.grid, pooling
    )
    crops = vision.crop_boxes(batch["image"], enlarged_by_hand(batch["boxes"]), 1.0)
    targets = encode({**params, "vision": taught_by["vision"]}, crops.reshape(-1, *crops.shape[2:])).pooled
    targets = jax.lax.stop_gradient(targets).reshape(phi.shape)
    cosine = (phi * targets).sum(-1) / jnp.linalg.norm(targets, axis=-1)
    return ((1 - cosine) * mask).sum() / mask.sum()


def enlarged_by_hand(boxes):
    """CLIPSelf's way: centre and sides, half of 1.5 to each side, cut at the edge of the image."""
    y, x = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    sides = [y - 0.75 * height, x - 0.75 * width, y + 0.75 * height, x + 0.75 * width]
    return np.clip(np.stack(sides, axis=-1), 0, 1)


@pytest.mark.parametrize("chunk, slices", [(1, 1), (2, 1), (0, 1), (2, 2)])
def test_chunks_give_the_value_and_gradient_of_all_crops_at_once(mesh, chunk, slices):
    """Two do not divide the three boxes of an image."""
    config, model, batch = common.micro_crops(objective__global_region__crop_chunk=chunk, accumulate=slices)
    params = states.create(model, optimizers.make_optimizer(config), mesh, 0).params
    gradients, metrics = jax.jit(
        lambda params, batch: steps.gradient(model, config, params, batch, 0, jax.random.key(0))
    )(params, batch)
    pooling = config.objective.region_pooling
    value, expected = jax.jit(jax.value_and_grad(lambda params: literal_loss(model, params, params, batch, pooling)))(
        params
    )
    assert metrics["global_region/pairs"] == batch["box_valid"].sum() > 0
    np.testing.assert_allclose(metrics["loss/global_region"], value, rtol=1e-5)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, gradients, expected)) <= 1e-5 * optax.tree.norm(expected)


def test_memory_is_that_of_a_chunk_however_many_boxes_there_are():
    """Temporary bytes of the compiled gradient."""

    def temporary(boxes, chunk):
        config, model, batch = common.micro_crops(data__max_boxes=boxes, objective__global_region__crop_chunk=chunk)
        params = states.shapes(model)
        step = jax.jit(lambda params: steps.gradient(model, config, params, batch, 0, jax.random.key(0)))
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    few, many, at_once = temporary(4, 1), temporary(32, 1), temporary(32, 0)
    pixels = 16 * 32 * 32 * 32 * 3 * 4  # of the crops of 16 images, 32 boxes each, in float32
    assert at_once > pixels > 3 * many and many < few + pixels / 30


def run(config, model, batch, mesh, state=None, count=1):
    """The states, as NumPy arrays, before and after so many steps, the last one as it is, and their metrics."""
    optimizer, kept = optimizers.make_optimizer(config), teacher.kept(config)
    name, metrics = config.objective.global_region.teacher, []
    with jax.set_mesh(mesh):
        state = state or states.create(model, optimizer, mesh, 0, **kept)
        if name not in PROGRAMS:
            places = states.shardings(model, optimizer, mesh, **kept)
            PROGRAMS[name] = steps.make_train_step(model, optimizer, config, mesh, places)
        seen = [jax.tree.map(np.array, state)]
        for _ in range(count):
            state, found = PROGRAMS[name](state, loop.to_devices(batch, mesh), jax.random.key(0))
            seen.append(jax.tree.map(np.array, state))
            metrics.append(found)
    return seen, state, metrics


def settings(name):
    return common.micro_crops(
        objective__global_region__teacher=name, optimizer__ema=0.9 if name == "ema" else 0.0, optimizer__epsilon=1e-6
    )


@pytest.mark.parametrize("name", ["self", "ema", "start"])
def test_the_loss_is_against_the_teachers_crops(mesh, name):
    """After three steps the student has moved; the loss of the fourth is against the crops of who teaches."""
    config, model, batch = settings(name)
    seen, _, metrics = run(config, model, batch, mesh, count=4)
    student, start = seen[3].params, seen[0].params
    assert common.bits(student["vision"]) != common.bits(start["vision"])
    assert (seen[3].start is None) == (name != "start")
    teachers = {"self": student, "start": start}
    if name == "ema":
        teachers["ema"] = seen[3].ema
    pooling = config.objective.region_pooling
    loss = jax.jit(lambda by: literal_loss(model, student, by, batch, pooling))
    losses = {other: float(loss(by)) for other, by in teachers.items()}
    found = float(metrics[3]["loss/global_region"])
    assert found == pytest.approx(losses.pop(name), rel=1e-5)
    assert all(abs(found - other) > 1e-3 * found for other in losses.values())


def test_the_starting_models_features_stay_while_the_student_moves(mesh):
    config, model, batch = settings("start")
    seen, last, _ = run(config, model, batch, mesh, count=4)
    assert common.bits(seen[4].start) == common.bits({"vision": seen[0].params["vision"]})

    def features(params, by):
        fixed = teacher.without_gradient(params, by)
        encode = lambda images: model.apply({"params": fixed}, images, method="encode_image").pooled
        return teacher.encode_crops(encode, batch["image"], batch["boxes"], 1)

    features = jax.jit(features)
    before, after = features(seen[0].params, None), features(seen[4].params, teacher.of(config, last))
    np.testing.assert_array_equal(before, after)
    assert np.abs(before - features(seen[4].params, None)).max() > 1e-3


@pytest.mark.parametrize("name", ["ema", "start"])
def test_a_checkpoint_goes_on_to_the_bit(mesh, name, tmp_path):
    config, model, batch = settings(name)
    straight, _, _ = run(config, model, batch, mesh, count=4)
    _, half, _ = run(config, model, batch, mesh, count=2)
    with CheckpointWriter(str(tmp_path), keep=2) as writer:
        writer.save(2, half, {})
        writer.save(3, dataclasses.replace(half, ema=None, start=None), {})
    like = states.abstract(model, optimizers.make_optimizer(config), mesh, **teacher.kept(config))
    again = Checkpoints(str(tmp_path)).restore(2, like)
    resumed, _, _ = run(config, model, batch, mesh, again, count=2)
    assert common.bits(resumed[-1]) == common.bits(straight[-1])
    with pytest.raises(CheckpointError, match="is not in the checkpoint.*config.objective.global_region.teacher as"):
        Checkpoints(str(tmp_path)).restore(3, like)


def test_a_run_is_taught_by_the_weights_that_it_starts_from(mesh, tmp_path):
    """`config.init`'s, not the random ones; in buffers of their own, since a step donates both."""
    config, model, _ = settings("start")
    start = functools.partial(loop.start_state, config, model, optimizers.make_optimizer(config), mesh)
    state = start(Checkpoints(str(tmp_path)), lambda params: jax.tree.map(lambda leaf: leaf + 1, params))
    random = states.create(model, optimizers.make_optimizer(config), mesh, 0).params["vision"]
    assert common.bits(state.start) == common.bits(state.params["vision"]) != common.bits(random)
    pointers = lambda tree: {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
    assert not pointers(state.start) & pointers(state.params)


def test_crops_of_another_size_are_seen_with_the_positions_of_that_size(mesh):
    """Of a box that is the whole image, the image itself at that size, by a model that is built for it.

    The model's positions have been resampled from that size, as `config.init` does; those it came from come back.
    """
    config, model, batch = common.micro_crops(data__image_size=48, objective__global_region__crop_size=32)
    batch["boxes"] = np.tile(np.float32([0, 0, 1, 1]), (*batch["boxes"].shape[:2], 1))
    params = states.create(model, optimizers.make_optimizer(config), mesh, 0).params
    smaller = common.micro(data__image_size=32)[1]
    assert smaller.grid == (2, 2) != model.grid
    position = jax.random.normal(jax.random.key(3), (5, 16)) / 4
    tower = {**params["vision"], "position": position}
    params["vision"]["position"] = vision.resample_position(position, (2, 2), (3, 3))
    images = jax.image.resize(batch["image"] / np.float32(255), (16, 32, 32, 3), "linear")
    target = smaller.apply({"params": {**params, "vision": tower}}, images, method="encode_image").pooled
    found = jax.jit(lambda params: steps.encode(model, params, batch, config))(params).own["global_region"]["targets"]
    target = np.asarray(target / jnp.linalg.norm(target, axis=-1, keepdims=True))
    np.testing.assert_allclose(found, np.where(batch["box_valid"][..., None], target[:, None], 0), atol=1e-5)


@pytest.mark.parametrize("fine, coarse", [((64, 64), (14, 14)), ((24, 40), (14, 14)), ((14, 21), (14, 14))])
def test_positions_come_back_from_a_finer_grid(fine, coarse):
    """White noise, of which resampling down again loses a third."""
    position = jax.random.normal(jax.random.key(0), (1 + coarse[0] * coarse[1], 8))
    there = vision.resample_position(position, coarse, fine)
    np.testing.assert_allclose(teacher._positions(there, fine, coarse), position, atol=1e-4)
    lost = vision.resample_position(there, fine, coarse) - position
    assert jnp.linalg.norm(lost) > 0.2 * jnp.linalg.norm(position)
    finer = teacher._positions(position, coarse, fine)
    np.testing.assert_allclose(finer, there, atol=1e-5)


def test_boxes_are_enlarged_about_their_centres_and_cut_at_the_edge():
    boxes = np.array([[0.4, 0.4, 0.6, 0.8], [0.0, 0.5, 0.4, 1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)[None]
    expected = [[0.35, 0.3, 0.65, 0.9], [0.0, 0.375, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(teacher.enlarged(boxes)[0], expected, atol=1e-6)
    both = teacher.enlarged(np.repeat(boxes, 2, 0), np.array([[0.62, 1], [1, 0.85]]))  # of pictures with padding
    np.testing.assert_allclose(both[0, 0], [0.35, 0.3, 0.62, 0.9], atol=1e-6)
    np.testing.assert_allclose(both[1, :2], [[0.35, 0.3, 0.65, 0.85], [0.0, 0.375, 0.5, 0.85]], atol=1e-6)
