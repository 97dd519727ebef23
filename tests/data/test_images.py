"""Images: every kind becomes what a viewer shows, damaged ones are named, and re-encoding loses nothing else."""

import io
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from harmopower.data import images, transforms
from harmopower.errors import RecordError

HERE = Path(__file__).parent


def _encoded(image: Image.Image, kind="PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(images.decode(data)).astype(int)


def _photograph(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "mode, color, kind",
    [
        ("RGB", (255, 0, 0), "PNG"),
        ("RGBA", (255, 0, 0, 255), "PNG"),
        ("P", 3, "PNG"),
        ("L", 200, "PNG"),
        ("LA", (200, 255), "PNG"),
        ("1", 1, "PNG"),
        ("CMYK", (0, 255, 255, 0), "JPEG"),
        ("L", 200, "JPEG"),
    ],
)
def test_decode_gives_rgb(mode, color, kind):
    image = Image.new(mode, (6, 4), color)
    assert images.decode(_encoded(image, kind)).mode == "RGB"
    assert np.abs(_pixels(_encoded(image, kind)) - np.asarray(image.convert("RGB"))).max() <= 2


def test_grey_of_sixteen_bits_keeps_its_shades():
    values = (np.arange(256, dtype=np.uint16) << 8).reshape(16, 16) + 77
    for kind in ("PNG", "TIFF"):
        assert (_pixels(_encoded(Image.fromarray(values), kind))[..., 0] == np.arange(256).reshape(16, 16)).all()


def test_a_transparent_shade_of_sixteen_bits_is_white():
    values = np.array([[0, 5000], [30000, 65535]], np.uint16)
    shown = _pixels(_encoded(Image.fromarray(values), "PNG", transparency=5000))[..., 0]
    assert shown.tolist() == [[0, 255], [30000 >> 8, 255]]


def test_numbers_without_an_agreed_range_are_refused():
    with pytest.raises(RecordError, match="floating-point"):
        images.decode(_encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    with pytest.raises(RecordError, match="from 0 to 70000; 16 bits hold 0 to 65535"):
        images.decode(_encoded(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


def test_transparency_lies_over_white():
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    half.putpixel((1, 0), (200, 0, 0, 51))  # a fifth of it
    for kind, how in (("PNG", {}), ("WEBP", dict(lossless=True, exact=True)), ("TIFF", {})):
        assert _pixels(_encoded(half, kind, **how)).tolist() == [[[255, 255, 255], [244, 204, 204]]]
    grey = Image.new("LA", (1, 1), (0, 51))
    assert _pixels(_encoded(grey)).tolist() == [[[204] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_is_white(kind):
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert _pixels(_encoded(palette, kind, transparency=0)).tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "compressed TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    """The upright picture has its only bright corner in the upper left, 32 wide and 16 high."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255
    # What each orientation says of the stored first row and column (EXIF 2.3), done the other way round.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = dict(compression="tiff_lzw") if kind.startswith("compressed") else {}
    data = _encoded(Image.fromarray(np.ascontiguousarray(stored)), kind.split()[-1], exif=exif, **how)
    assert np.abs(_pixels(data) - upright).max() < 60  # what JPEG and WebP lose
    small = Image.open(io.BytesIO(images.shrink(data, 8)))
    assert small.size == (16, 8) and not small.getexif()
    assert np.asarray(small)[1, 1, 0] > 200 and np.asarray(small)[:, 8:].max() < 60


def test_a_damaged_exif_block_does_not_cost_the_picture():
    data = _encoded(_photograph(20, 10), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert images.decode(data).size == (20, 10)


def test_broken_images_are_record_errors():
    whole = _encoded(_photograph(32, 32), "JPEG")
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(RecordError, match=f"{len(data)} bytes.*cannot be decoded"):
            images.decode(data)


def test_a_giant_image_is_refused_before_it_is_decoded():
    data = bytearray(_encoded(Image.new("RGB", (8, 8)), "BMP"))
    data[18:26] = (40_000).to_bytes(4, "little") + (40_000).to_bytes(4, "little")
    with pytest.raises(RecordError, match="decompression bomb"):
        images.decode(bytes(data))


def test_ten_thousand_damaged_images_give_an_image_or_a_record_error():
    """In a process of its own, so that a crash of a C library is seen, and every warning that would reach a log."""
    done = subprocess.run(
        [sys.executable, "-W", "always", str(HERE / "fuzz_images.py"), "10000"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    decoded, refused = map(int, done.stdout.split())
    assert decoded + refused == 10_000 and decoded > 1000 and refused > 1000
    # libtiff writes its complaints to standard error by itself, and nobody can stop it there; Python's side is silent.
    assert "Warning" not in done.stderr and "More samples per pixel" not in done.stderr


def test_shrinking_keeps_what_needs_no_change():
    for image in (_photograph(64, 40), _photograph(64, 40).convert("L")):
        for kind in ("JPEG", "PNG", "WEBP"):
            data = _encoded(image, kind) if image.mode == "RGB" or kind != "WEBP" else _encoded(image, "PNG")
            assert images.shrink(data, 40) == data and images.shrink(data, 4000) == data


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 333), (257, 256), (2051, 1025)])
def test_shrinking_gives_the_shortest_side(size):
    picture = _photograph(*size)
    data = images.shrink(_encoded(picture, "JPEG", quality=95), 256, quality=95)
    small = images.decode(data)
    assert min(small.size) == 256 and max(small.size) == round(max(size) * 256 / min(size))
    wanted = np.asarray(picture.resize(small.size, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(small) - wanted).mean() < 2  # decoded at reduced scale, resized and encoded once more


@pytest.mark.parametrize("side, decoded", [(125, (250, 125)), (126, (500, 250)), (250, (500, 250)), (251, (1000, 500))])
def test_a_large_jpeg_is_decoded_at_reduced_scale_but_never_below_the_target(side, decoded, monkeypatch):
    loaded = []
    fit = images._fit
    monkeypatch.setattr(images, "_fit", lambda image, *sizes: loaded.append(image.size) or fit(image, *sizes))
    images.shrink(_encoded(_photograph(1000, 500), "JPEG"), side)
    images.shrink(_encoded(_photograph(1000, 500), "PNG"), side)
    assert loaded == [decoded, (1000, 500)]


@pytest.mark.parametrize(
    "data",
    [
        _encoded(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG"),
        _encoded(Image.new("RGBA", (20, 10), (255, 0, 0, 200))),
        _encoded(Image.new("P", (20, 10), 3)),
        _encoded(Image.fromarray(np.full((10, 20), 30_000, np.uint16))),
        _encoded(Image.new("RGB", (20, 10), "red"), "BMP"),
        _encoded(Image.new("RGB", (20, 10), "red"), "GIF"),
        _encoded(Image.new("RGB", (20, 10), "red"), "TIFF"),
    ],
)
def test_shrinking_converts_what_other_readers_would_show_differently(data):
    found = images.shrink(data, 10)
    stored = Image.open(io.BytesIO(found))
    assert stored.format == "JPEG" and stored.mode == "RGB" and stored.size == (20, 10)
    assert np.abs(_pixels(found) - _pixels(data)).max() <= 4


def test_shrinking_names_broken_images():
    whole = _encoded(_photograph(64, 64), "JPEG")
    for side in (8, 64):
        with pytest.raises(RecordError, match="cannot be decoded"):
            images.shrink(whole[: len(whole) // 2], side)


def test_boxes_refer_to_the_upright_image():
    """A painted box, given for the upright picture, is found by its moved box in the crop of a rotated file."""
    upright = np.zeros((60, 90, 3), np.uint8)
    upright[6:24, 9:54] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(Image.fromarray(np.ascontiguousarray(upright.transpose(1, 0, 2)[::-1])), exif=exif)
    image = images.decode(data)
    window = transforms.fixed_window(image.size, (30, 30), "shortest")
    painted = transforms.crop_and_resize(image, window, (30, 30))[..., 0] > 127
    moved, _ = transforms.move_boxes([[0.1, 0.1, 0.4, 0.6]], window, (30, 30))
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / 30
    assert np.abs(found - moved[0]).max() <= 1 / 30
