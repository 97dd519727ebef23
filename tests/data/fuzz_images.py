"""Damages tiny images in every way and decodes them; run by test_images.py in a process of its own.

    python -W always tests/data/fuzz_images.py 10000

Prints how many gave an image and how many a RecordError; anything else ends it with a traceback.
"""

import io
import sys

import numpy as np
from PIL import Image

from harmopower.data import images
from harmopower.errors import RecordError


def _encoded(image: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def whole_images() -> list[bytes]:
    """One small image for every way of storing them that the formats have."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (13, 17, 3), np.uint8))
    smooth = color.resize((34, 26), Image.Resampling.BICUBIC)
    grey, alpha, palette = color.convert("L"), color.convert("RGBA"), color.convert("P")
    deep = Image.fromarray(rng.integers(0, 1 << 16, (9, 11), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [_encoded(smooth, "JPEG", subsampling=sub, progressive=slow) for sub in (0, 1, 2) for slow in (False, True)]
    found += [_encoded(smooth, "JPEG", exif=exif), _encoded(grey, "JPEG"), _encoded(smooth.convert("CMYK"), "JPEG")]
    found += [_encoded(image, "PNG") for image in (color, grey, alpha, palette, deep, color.convert("1"))]
    found += [_encoded(color, "PNG", exif=exif), _encoded(palette, "PNG", transparency=3)]
    found += [_encoded(color, "WEBP"), _encoded(alpha, "WEBP", lossless=True), _encoded(smooth, "WEBP", exif=exif)]
    found += [_encoded(smooth, "TIFF", compression=how) for how in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")]
    found += [_encoded(image, "TIFF") for image in (deep, palette, grey)] + [_encoded(color, "TIFF", exif=exif)]
    found += [_encoded(palette, "GIF"), _encoded(grey, "GIF", save_all=True, append_images=[grey.rotate(90)])]
    return found


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut off somewhere, or with one to six bits flipped, half of the time among the headers of the first 100 bytes."""
    if rng.random() < 0.3:
        return whole[: rng.integers(len(whole))]
    data = bytearray(whole)
    for _ in range(rng.integers(1, 7)):
        end = min(len(data), 100) if rng.random() < 0.5 else len(data)
        data[rng.integers(end)] ^= 1 << rng.integers(8)
    return bytes(data)


def main(cases: int) -> None:
    rng, wholes, counts = np.random.default_rng(1), whole_images(), {"images": 0, "errors": 0}
    for case in range(cases):
        data = damaged(wholes[case % len(wholes)], rng)
        try:
            assert images.decode(data).mode == "RGB"
            counts["images"] += 1
        except RecordError:
            counts["errors"] += 1
    print(counts["images"], counts["errors"])


if __name__ == "__main__":
    main(int(sys.argv[1]))
