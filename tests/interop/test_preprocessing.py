"""A real image file gives the same pixels here and in OpenCLIP, in Hugging Face's processor to one grey level."""

from pathlib import Path

from interop_models import random_params, settings, write_export
from libraries import open_clip, transformers
import numpy as np
from PIL import Image
import pytest

from harmopower.data import images, transforms
from harmopower.interop import formats, huggingface, source, starting, weights
from harmopower.interop import open_clip as layout

GOLDEN = Path(__file__).parent / "golden.jpg"  # 150 x 100, drawn and compressed by make_golden.py
SIDE = 64
SQUARE = (SIDE, SIDE)


def ours(mode):
    image = images.decode(GOLDEN.read_bytes())
    return transforms.fixed_view(image, SQUARE, mode)


def grey_levels(pixels):
    """Back from normalised `[3, S, S]` to 0..255 `[S, S, 3]`."""
    mean, std = (np.array(value)[:, None, None] for value in (formats.OPENAI_MEAN, formats.OPENAI_STD))
    return ((np.asarray(pixels) * std + mean) * 255).transpose(1, 2, 0)


@pytest.mark.parametrize("mode", ["squash", "shortest"])
def test_golden_pixels(mode):
    """Written once by Pillow's whole-image resize and crop (make_golden.py), so that no later change passes unseen."""
    with np.load(GOLDEN.with_suffix(".npz")) as golden:
        assert np.abs(ours(mode).astype(int) - golden[mode].astype(int)).max() <= 1


@pytest.fixture(scope="module", params=["squash", "shortest"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preprocessing")
    config = settings(preset="tiny", image_size=SIDE, resize_mode=request.param)
    flat = random_params(config)
    for name in ("open_clip", "huggingface"):
        write_export(folder / name, name, config, flat)
    return request.param, folder


def test_open_clip_and_hugging_face_agree(exported):
    mode, folder = exported
    image = images.decode(GOLDEN.read_bytes())
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder / 'open_clip'}")
    assert np.abs(grey_levels(preprocess(image)) - ours(mode)).max() <= 0.01
    processor = transformers.CLIPProcessor.from_pretrained(folder / "huggingface")
    found = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert np.abs(grey_levels(found) - ours(mode)).max() <= 1.01


@pytest.mark.parametrize("mode", ["squash", "shortest"])
def test_open_clip_holds_rectangles(mode, tmp_path):
    """The proof compares embeddings and pixels; then the folder is read back, and Hugging Face's format refuses."""
    config, told = settings(image_size=16, resize_mode=mode), []
    config.data.image_width = 48
    flat = random_params(config)
    model = write_export(tmp_path / "out", "open_clip", config, flat, told.append)
    assert any("open_clip" in line and "ids and pixels compared too" in line for line in told), told
    assert model.grid == (2, 6) and "16 x 48 px" in (tmp_path / "out" / "README.md").read_text()
    again = source.open_source(tmp_path / "out")
    assert transforms.shape_of(again.config.data) == (16, 48)
    np.testing.assert_array_equal(again.read("vision/position"), flat["vision/position"])
    starting.convert(tmp_path / "out", tmp_path / "square", image_size=32, say=told.append)
    assert "vision/position is resampled from 13 to 17 positions (2 x 6 to 4 x 4)" in told
    for size in ((60, 120), (120, 60), (97, 50), (31, 100)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
        preprocess = open_clip.image_transform((16, 48), is_train=False, resize_mode=mode)
        assert np.abs(grey_levels(preprocess(image)) - transforms.fixed_view(image, (16, 48), mode)).max() <= 0.01
    with pytest.raises(weights.ConversionError, match="one image_size, but .*image_size is 16 and image_width 48"):
        write_export(tmp_path / "other", "huggingface", config, flat)


def test_the_modes_differ():
    assert np.abs(ours("squash").astype(int) - ours("shortest").astype(int)).max() > 20


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (64, 64), (65, 64), (90, 301), (40, 31)])
def test_shortest_is_resize_and_centre_crop_at_any_size(size):
    """Against OpenCLIP's own two steps, with margins that are odd, even and none, and images that must grow."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    preprocess = open_clip.image_transform(SIDE, is_train=False, resize_mode="shortest")
    assert np.abs(grey_levels(preprocess(image)) - transforms.fixed_view(image, SQUARE, "shortest")).max() <= 0.01
    window = transforms.fixed_window(image.size, SQUARE, "shortest")  # as training takes it
    assert np.abs(grey_levels(preprocess(image)) - transforms.crop_and_resize(image, window, SQUARE)).max() <= 1.01


def test_boxes_move_with_the_centre_square():
    window = transforms.fixed_window((200, 100), (50, 50), "shortest")  # y0, x0, y1, x1
    np.testing.assert_allclose(window, (0, 0.25, 1, 0.75))
    moved, kept = transforms.move_boxes([[0, 0.25, 1, 0.5], [0, 0, 1, 0.2]], window, (50, 50))
    np.testing.assert_allclose(moved[0], [0, 0, 1, 0.5])
    assert kept.tolist() == [True, False]


def test_constants_are_written():
    """Other normalisation constants travel into both formats' configs."""
    facts = formats.Facts(pixel_mean=(0.1, 0.2, 0.3), pixel_std=(0.4, 0.5, 0.6), resize_mode="squash")
    written = huggingface._preprocessor(48, facts)
    assert written["image_mean"] == [0.1, 0.2, 0.3] and written["size"] == {"height": 48, "width": 48}
    found = layout._facts(
        {"vision_cfg": {"width": 64}, "text_cfg": {}},
        {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"},
        "x",
    )
    assert (found.pixel_mean, found.pixel_std, found.resize_mode) == (facts.pixel_mean, facts.pixel_std, "squash")
