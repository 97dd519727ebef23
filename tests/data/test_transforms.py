"""Transforms: a box still frames what it framed."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from harmopower.data import transforms
from tools.photographs import photographs


def test_whole_window_is_exact():
    assert transforms.random_window(np.random.default_rng(0), 1.0) == transforms.WHOLE
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    assert np.array_equal(transforms.crop_and_resize(Image.fromarray(pixels), transforms.WHOLE, (16, 16)), pixels)


@pytest.mark.parametrize(("name", "mean", "most"), [("hamming", 1.5, 40), ("box", 3, 100)])
def test_quicker_filters_are_other_pixels_but_antialiased_ones(name, mean, most):
    picture = Image.open(io.BytesIO(photographs(1, (341, 256))[0]))
    pixels = transforms.crop_and_resize(picture, transforms.WHOLE, (224, 224), name).astype(int)
    off = np.abs(pixels - transforms.crop_and_resize(picture, transforms.WHOLE, (224, 224)))
    assert 0.2 < off.mean() <= mean and off.max() <= most
    # Of a board with squares of one pixel every filter that looks at all of them leaves grey.
    board = Image.fromarray(np.indices((256, 256)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    assert np.abs(transforms.crop_and_resize(board, transforms.WHOLE, (32, 32), name) - 127.5).max() < 2


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
        moved, kept = transforms.move_boxes([corners / [height, width, height, width]], window, (size, size))
        painted = transforms.crop_and_resize(Image.fromarray(pixels), window, (size, size))[..., 0] > 127
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
    moved, kept = transforms.move_boxes(boxes, window, (64, 64))
    assert kept.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(moved[:2], [[0.2, 0.0, 0.4, 0.8], [0.2, 0.8, 0.4, 1.0]], atol=1e-6)
    assert moved.dtype == np.float32


def test_no_boxes():
    moved, kept = transforms.move_boxes([], transforms.WHOLE, (64, 64))
    assert moved.shape == (0, 4) and kept.shape == (0,)


CROPPED = {
    "none": lambda rng, size, shape, mode: transforms.fixed_window(size, shape, mode),
    "relative": lambda rng, size, shape, mode: transforms.random_window(rng, 0.3),
    "absolute": lambda rng, size, shape, mode: transforms.absolute_window(rng, 0.3, size),
}
CROPS, SIDES = st.sampled_from(list(CROPPED)), st.integers(16, 240)
SHAPES = st.tuples(st.sampled_from([32, 64, 96]), st.sampled_from([32, 64, 96]))


@settings(max_examples=200, deadline=None)
@given(st.tuples(SIDES, SIDES), SHAPES, st.sampled_from(transforms.RESIZE_MODES), CROPS, st.integers(0, 2**32 - 1))
def test_a_rectangle_is_found_where_its_moved_box_says(size, shape, mode, crop, seed):
    """Red on blue, in any frame: the moved box is around what is red, its content is coloured, its padding black."""
    rng, (width, height) = np.random.default_rng(seed), size
    y0, x0 = rng.integers(0, height - 4), rng.integers(0, width - 4)
    corners = np.array([y0, x0, rng.integers(y0 + 4, height + 1), rng.integers(x0 + 4, width + 1)])
    pixels = np.full((height, width, 3), (0, 0, 255), np.uint8)
    pixels[corners[0] : corners[2], corners[1] : corners[3]] = (255, 0, 0)
    window = CROPPED[crop](rng, size, shape, mode)
    content = transforms.content_of(size, window, shape, mode)
    frame = transforms.padded(transforms.crop_and_resize(Image.fromarray(pixels), window, content), shape)
    moved, kept = transforms.move_boxes([corners / [height, width, height, width]], window, shape, content)
    assert frame.shape == (*shape, 3) and (content == shape or mode == "letterbox")
    assert content[0] == shape[0] or content[1] == shape[1]
    assert (frame[: content[0], : content[1]].max(-1) > 60).all()
    assert not frame[content[0] :].any() and not frame[:, content[1] :].any()
    box = moved[0] * np.tile(shape, 2)
    assert (box[2:] <= np.array(content) + 1e-4).all()
    red = frame[..., 0] > 127
    if (box[2:] - box[:2]).min() < 3:  # too thin for half of its height to survive the resizing
        return
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    assert np.abs(found - box).max() <= 1, (found, box, kept)
    if crop == "none":  # as evaluation sees it, which resizes first and cuts then
        view = transforms.padded(transforms.fixed_view(Image.fromarray(pixels), shape, mode), shape)[..., 0] > 127
        rows, columns = np.flatnonzero(view.any(1)), np.flatnonzero(view.any(0))
        assert np.abs(np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) - box).max() <= 1


def test_letterbox_keeps_the_aspect_and_pads_right_and_below():
    image = Image.new("RGB", (200, 100), "white")
    view = transforms.fixed_view(image, (64, 64), "letterbox")
    assert view.shape == (32, 64, 3) and (view == 255).all()
    frame = transforms.padded(view, (64, 64))
    assert (frame[:32] == 255).all() and not frame[32:].any()
    moved, kept = transforms.move_boxes([[0.5, 0.25, 1, 0.5], [0, 0, 0.03, 1]], transforms.WHOLE, (64, 64), (32, 64))
    np.testing.assert_allclose(moved[0], [0.25, 0.25, 0.5, 0.5])
    assert kept.tolist() == [True, False]  # 0.96 pixels high
    assert transforms.fixed_view(Image.new("RGB", (4000, 2)), (64, 64), "letterbox").shape == (1, 64, 3)
    assert transforms.padded(frame, (64, 64)) is frame


@pytest.mark.parametrize("size", [(60, 120), (120, 60), (97, 50), (640, 480)])
def test_shortest_fills_a_rectangle_from_the_middle(size):
    shape = (32, 96)
    y0, x0, y1, x1 = transforms.fixed_window(size, shape, "shortest")
    assert max(y1 - y0, x1 - x0) == pytest.approx(1) and (y0 + y1, x0 + x1) == (pytest.approx(1, abs=0.05),) * 2
    aspect = (x1 - x0) * size[0] / ((y1 - y0) * size[1])
    assert aspect == pytest.approx(3, rel=0.03)
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)
    cut = transforms.crop_and_resize(image, (y0, x0, y1, x1), shape)
    assert np.abs(cut.astype(int) - transforms.fixed_view(image, shape, "shortest")).max() <= 3
