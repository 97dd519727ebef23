"""Regions as linear maps against textbook pooling."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import oracle
import pytest

from harmopower.features import regions

GRID = (5, 7)
weights_of = jax.jit(regions.region_weights, static_argnums=(1, 2))


def random_boxes(seed, count=20):
    corners = np.sort(np.random.default_rng(seed).random((count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)  # y0, x0, y1, x1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_roi_align_is_the_textbooks(seed):
    boxes = random_boxes(seed)
    # Boxes along the border, where samples fall outside the grid of centres.
    boxes[:3] = [[0, 0, 1, 1], [0, 0.2, 0.05, 0.4], [0.9, 0.93, 1, 1]]
    image = np.random.default_rng(seed + 1).normal(size=GRID + (3,))
    got = weights_of(boxes, GRID, "roi_align") @ image.reshape(-1, 3)
    np.testing.assert_allclose(got, [oracle.roi_align(image, box) for box in boxes], rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_roi_align_on_a_letterboxed_grid_is_the_textbooks_on_what_is_not_padding(seed):
    """Patches of 16 pixels; the picture ends within the last patch that it fills, and boxes reach to its end."""
    rng = np.random.default_rng(seed)
    content = np.stack([rng.integers(1, 16 * size + 1, 6) for size in GRID], 1)  # pixels, of six images
    filled = -(-content // 16)
    boxes = np.stack([random_boxes(seed % 2**31 + image, 8) for image in range(6)])
    # Not from 0: of a whole number of patches the samples, as many as its length rounded up, hang on its last bit.
    boxes[:, :2] = [[0.01, 0.01, 1, 1], [0.47, 0.91, 1, 1]]
    boxes *= np.tile(content / (16 * np.array(GRID)), 2)[:, None].astype(np.float32)
    maps = rng.normal(size=(6, *GRID, 3))
    weights = np.asarray(weights_of(boxes, GRID, "roi_align", filled)).reshape(6, 8, *GRID)
    got = np.einsum("bmrc,brcd->bmd", weights, maps)
    for image, (rows, columns) in enumerate(filled):
        own = boxes[image] * np.tile(np.array(GRID) / filled[image], 2)  # in shares of the map that ends there
        expected = [oracle.roi_align(maps[image, :rows, :columns], box) for box in own]
        np.testing.assert_allclose(got[image], expected, rtol=0, atol=1e-4)
        assert not weights[image, :, rows:].any() and not weights[image, :, :, columns:].any()


@pytest.mark.parametrize("mode", ["cover", "overlap", "roi_align"])
def test_padding_is_in_no_region(mode):
    boxes = np.stack([random_boxes(1, 6)] * 2)  # over the whole frame, as no box of a letterboxed image is
    boxes[:, 0] = [0.85, 0.85, 0.95, 0.95]  # in the padding alone
    tokens = np.random.default_rng(0).normal(size=(2, 35, 4)).astype(np.float32)
    filled, valid = np.array([[3, 7], [5, 4]], np.int32), np.ones((2, 6), bool)
    padding = np.ones((2, *GRID), bool)
    padding[0, :3], padding[1, :, :4] = False, False
    pool = jax.jit(lambda tokens: regions.pool_regions(tokens, boxes, valid, GRID, mode, None, filled))
    phi, mask = pool(tokens)
    np.testing.assert_array_equal(phi, pool(np.where(padding.reshape(2, 35, 1), 7, tokens))[0])
    assert not mask[:, 0].any() and mask[:, 1:].any()
    np.testing.assert_allclose(np.linalg.norm(phi, axis=-1), mask, atol=1e-6)
    whole, _ = regions.pool_regions(tokens, boxes, valid, GRID, mode, None, np.array([GRID] * 2))
    np.testing.assert_array_equal(whole, regions.pool_regions(tokens, boxes, valid, GRID, mode)[0])


def test_overlap_is_the_covered_share_and_cover_its_support():
    boxes = random_boxes(0)
    overlap = np.asarray(weights_of(boxes, GRID, "overlap")).reshape(-1, *GRID)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * GRID[0] * GRID[1]
    np.testing.assert_allclose(overlap.sum((1, 2)), area, rtol=1e-4)
    np.testing.assert_array_equal(weights_of(boxes, GRID, "cover").reshape(-1, *GRID), overlap > 0)
    one = np.array([[0.0, 0.0, 0.3, 2 / 7]], np.float32)  # one and a half rows, two columns
    corner = {mode: weights_of(one, GRID, mode).reshape(GRID)[:3, :3] for mode in ("overlap", "cover")}
    np.testing.assert_allclose(corner["overlap"], [[1, 1, 0], [0.5, 0.5, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(corner["cover"], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("mode", ["cover", "overlap", "roi_align"])
def test_empty_box_has_no_region(mode):
    full = [0.1, 0.1, 0.9, 0.9]
    boxes = np.array([[[0.5, 0.2, 0.5, 0.8], [0.7, 0.2, 0.3, 0.8], full, full]], np.float32)
    valid = np.array([[True, True, True, False]])
    tokens = np.random.default_rng(0).normal(size=(1, 35, 4)).astype(np.float32)
    phi, mask = regions.pool_regions(tokens, boxes, valid, GRID, mode)
    np.testing.assert_array_equal(mask, [[False, False, True, False]])
    np.testing.assert_allclose(np.linalg.norm(phi, axis=-1), [[0, 0, 1, 0]], atol=1e-6)
    gradient = jax.grad(lambda tokens: regions.pool_regions(tokens, boxes, valid, GRID, mode)[0].sum())(tokens * 0)
    assert not np.any(gradient)  # zero tokens make a zero vector: no direction, no gradient, no NaN


@pytest.mark.parametrize("mode", ["cover", "overlap", "roi_align"])
def test_regions_are_pooled_over_kept_patches_only(mode):
    boxes = np.stack([random_boxes(1, 6), random_boxes(2, 6)])
    tokens = np.random.default_rng(0).normal(size=(2, 35, 4)).astype(np.float32)
    kept = np.array([[2, 17, 30], [0, 8, 9]])
    valid = np.ones((2, 6), bool)
    pool = jax.jit(lambda tokens: regions.pool_regions(tokens, boxes, valid, GRID, mode, kept))
    phi, mask = pool(np.take_along_axis(tokens, kept[..., None], 1))
    weights = np.take_along_axis(np.asarray(weights_of(boxes, GRID, mode)), kept[:, None], 2)
    assert mask.any() and not mask.all()  # some box has lost all its patches
    np.testing.assert_array_equal(mask, weights.any(-1))
    without = np.where((np.arange(35) == kept[:, :, None]).any(1)[..., None], tokens, 0)
    expected, _ = regions.pool_regions(without, boxes, valid, GRID, mode)
    np.testing.assert_allclose(phi, expected, atol=1e-5)


def test_unknown_mode_names_the_key():
    with pytest.raises(ValueError, match="objective.region_pooling is 'max'"):
        regions.region_weights(np.zeros((1, 4)), GRID, "max")
