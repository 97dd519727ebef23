"""Letterboxed images in a train step: padding is in no feature and in no loss."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from harmopower.data import pipeline
from harmopower.models import clip
from harmopower.objectives import total
from harmopower.training import accounting, planning
from harmopower.training import step as steps
from tests.training.common import micro

CONTENT = np.array([[32, 32], [11, 32], [32, 17], [16, 32]] * 4, np.int32)


def letterboxed(**settings):
    """Config, model, parameters, and a batch whose boxes reach to the end of each picture."""
    config, model, batch = micro(
        data__resize_mode="letterbox",
        objective__lexeme_region__weight=1.0,
        objective__global_region__weight=1.0,
        objective__global_region__mode="crop",
        **settings,
    )
    model = clip.from_config(config, 64, 63, total.scales(config.objective))
    empty = pipeline.empty_batch(config.data, config.batch_size, grid=model.grid)
    boxes = np.tile(CONTENT / np.float32(32), 2)[:, None] * np.array([[0.3, 0.1, 1, 1], [0, 0.5, 0.6, 1]])
    batch = empty | batch | {"content": CONTENT, "boxes": boxes.astype(np.float32)}
    batch["box_valid"] = np.ones_like(batch["box_valid"])
    batch["phrases"] = np.ones_like(batch["phrases"])
    batch["box_phrase"] = np.zeros_like(batch["box_phrase"])
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch["image"][:1], batch["tokens"][:1]))["params"]
    return config, model, params, batch


def repainted(batch):
    rows, columns = (np.arange(32) < CONTENT[:, axis, None] for axis in (0, 1))
    inside = (rows[:, :, None] & columns[:, None])[..., None]
    assert not inside.all()
    return batch | {"image": np.where(inside, batch["image"], 255 - batch["image"])}


@pytest.mark.parametrize("pooling", ["cover", "overlap", "roi_align"])
def test_the_pixels_of_padding_change_no_region_feature(pooling):
    """Bit for bit; nor any other feature but the crops, which are cut out of the image with what lies beside it."""
    config, model, params, batch = letterboxed(model__dense="value", objective__region_pooling=pooling)
    features = jax.jit(lambda batch: steps.encode(model, params, batch, config))
    before, after = features(batch), features(repainted(batch))
    assert before.region_mask.all()
    for name in ("image", "regions", "region_mask"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name), err_msg=name)
    blind = features({name: value for name, value in repainted(batch).items() if name != "content"})
    assert (
        abs(blind.regions - before.regions).max((1, 2))[np.arange(16) % 4 > 0] > 1e-3
    ).all()  # who is not told sees the difference


def test_a_step_on_rectangles_counts_and_trains_what_they_hold():
    config, model, params, batch = letterboxed(data__image_width=64, model__pool="mean")
    assert batch["image"].shape == (16, 32, 64, 3) and model.grid == (2, 4)
    gradient = jax.jit(lambda batch: steps.gradient(model, config, params, batch, 0, jax.random.key(1)))
    gradients, metrics = gradient(batch)
    assert np.isfinite(list(metrics.values())).all() and metrics["global_region/pairs"] > 0
    moved = np.abs(gradients["vision"]["position"][1:]).max(1).reshape(2, 4) > 0
    assert moved.all()
    square = config.copy_and_resolve_references()
    square.data.image_size, square.data.image_width = 64, 32
    assert accounting.image_flops(config) == accounting.image_flops(square)
    square.data.image_width = 0
    assert accounting.image_flops(config) < 0.55 * accounting.image_flops(square)
    assert planning.Step(config, lambda config: model).arguments()["batch"] == sum(
        rows.nbytes for rows in batch.values()
    )


@pytest.mark.slow
def test_a_letterboxed_step_has_a_finite_gradient_that_slices_do_not_change():
    config, model, params, batch = letterboxed(model__patch_dropout=0.5, model__pool="mean")
    batch["content"] = np.where(np.arange(16)[:, None] == 3, 0, CONTENT)  # a bad record, which has none
    batch["weight"] = np.float32(np.arange(16) != 3)
    grown = {}
    for slices in (1, 4):
        config.accumulate = slices
        gradient = jax.jit(lambda batch: steps.gradient(model, config, params, batch, 0, jax.random.key(1)))
        grown[slices], metrics = gradient(batch)
        assert np.isfinite(list(metrics.values())).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), grown[1], grown[4])
