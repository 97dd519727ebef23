"""Transforms: a box still frames what it framed."""

import io

import numpy as np
from PIL import Image
import pytest

from harmopower.data import transforms
from tools.photographs import photographs


def test_whole_window_is_exact():
    assert transforms.random_window(np.random.default_rng(0), 1.0) == transforms.WHOLE
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    assert np.array_equal(transforms.crop_and_resize(Image.fromarray(pixels), transforms.WHOLE, 16), pixels)


@pytest.mark.parametrize(("name", "mean", "most"), [("hamming", 1.5, 40), ("box", 3, 100)])
def test_quicker_filters_are_other_pixels_but_antialiased_ones(name, mean, most):
    picture = Image.open(io.BytesIO(photographs(1, (341, 256))[0]))
    pixels = transforms.crop_and_resize(picture, transforms.WHOLE, 224, name).astype(int)
    off = np.abs(pixels - transforms.crop_and_resize(picture, transforms.WHOLE, 224))
    assert 0.2 < off.mean() <= mean and off.max() <= most
    # Of a board with squares of one pixel every filter that looks at all of them leaves grey.
    board = Image.fromarray(np.indices((256, 256)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    assert np.abs(transforms.crop_and_resize(board, transforms.WHOLE, 32, name) - 127.5).max() < 2


@pytest.mark.parametrize("least", [0.08, 0.5, 0.95])
def test_windows_stay_inside_and_keep_their_area(least):
    rng = np.random.default_rng(1)
    windows = np.array([transforms.random_window(rng, least) for _ in range(2000)])
    assert (windows >= 0).all() and (windows <= 1).all()
    area = (windows[:, 2:] - windows[:, :2]).prod(axis=1)
    assert area.min() >= least - 1e-9 and area.max() <= 1 + 1e-9
    # Uniform between the least and the whole: its mean is half-way.
    assert abs(area.mean() - (1 + least) / 2) < 0.02 * (1 - least) + 0.01


@pytest.mark.parametrize("size", [(300, 200), (200, 200), (220, 260)])
def test_absolute_windows_have_torchvisions_aspect_in_pixels(size):
    rng = np.random.default_rng(1)
    windows = np.array([transforms.absolute_window(rng, 0.5, size) for _ in range(500)])
    assert (windows >= 0).all() and (windows <= 1 + 1e-12).all()
    height, width = (windows[:, 2:] - windows[:, :2]).T
    aspect = width * size[0] / (height * size[1])
    assert 0.75 - 1e-9 <= aspect.min() < 0.95 and 1.05 < aspect.max() <= 4 / 3 + 1e-9
    assert (height * width).min() >= 0.5 - 1e-9


def test_a_window_that_no_crop_of_such_an_area_fits_is_the_largest_in_the_middle():
    found = [transforms.absolute_window(np.random.default_rng(0), 0.9, size) for size in ((400, 100), (100, 200))]
    np.testing.assert_allclose(found, [(0, 1 / 3, 1, 2 / 3), (1 / 6, 0, 5 / 6, 1)])


def test_boxes_move_with_the_crop():
    """A painted box is found again, pixel for pixel, at the place where the moved box says it is."""
    rng = np.random.default_rng(2)
    height, width, size = 120, 160, 64
    compared = 0
    for _ in range(60):
        y0, x0 = rng.uniform(0, 0.6, 2)
        box = np.array([y0, x0, y0 + rng.uniform(0.2, 0.4), x0 + rng.uniform(0.2, 0.4)])
        corners = np.round(box * [height, width, height, width]).astype(int)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[corners[0] : corners[2], corners[1] : corners[3]] = 255
        window = transforms.random_window(rng, 0.3)
        moved, kept = transforms.move_boxes([corners / [height, width, height, width]], window, size)
        painted = transforms.crop_and_resize(Image.fromarray(pixels), window, size)[..., 0] > 127
        if kept[0]:
            compared += 1
            rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
            found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / size
            assert np.abs(found - moved[0]).max() <= 1 / size
    assert compared > 40


def test_hidden_and_tiny_boxes_are_dropped():
    window = (0.0, 0.0, 1.0, 0.5)  # the left half
    boxes = [
        [0.2, 0.0, 0.4, 0.4],  # inside
        [0.2, 0.4, 0.4, 0.6],  # half visible
        [0.2, 0.42, 0.4, 0.82],  # a fifth visible
        [0.2, 0.6, 0.4, 0.8],  # outside
        [0.2, 0.1, 0.21, 0.4],  # below one pixel
    ]
    moved, kept = transforms.move_boxes(boxes, window, 64)
    assert kept.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(moved[:2], [[0.2, 0.0, 0.4, 0.8], [0.2, 0.8, 0.4, 1.0]], atol=1e-6)
    assert moved.dtype == np.float32


def test_no_boxes():
    moved, kept = transforms.move_boxes([], transforms.WHOLE, 64)
    assert moved.shape == (0, 4) and kept.shape == (0,)
