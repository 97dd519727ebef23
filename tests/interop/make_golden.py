"""Makes golden.jpg and golden.npz: python tests/interop/make_golden.py

The pixels come from Pillow's resize of the whole image and a crop, the steps that CLIP's own preprocessing takes, and
not from harmopower.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
HERE = Path(__file__).parent


def draw() -> Image.Image:
    """Smooth colours, hard edges and fine stripes: what resizing filters disagree on."""
    width, height = 150, 100
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), 255 * (x + y) / (width + height)], axis=-1)
    image = Image.fromarray(waves.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 15, 80, 75), fill=(250, 30, 20))
    for column in range(95, 140, 3):
        pen.line((column, 10, column, 90), fill=(0, 0, 0))
    pen.polygon([(60, 95), (90, 40), (110, 95)], fill=(20, 60, 240))
    return image


def main() -> None:
    """Writes both files."""
    draw().save(HERE / "golden.jpg", quality=90)
    with Image.open(HERE / "golden.jpg") as file:
        image = file.convert("RGB")
    width, height = image.size
    squash = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    wide = image.resize((math.floor(SIDE * width / height), SIDE), Image.Resampling.BICUBIC)
    left = (wide.size[0] - SIDE) // 2
    shortest = wide.crop((left, 0, left + SIDE, SIDE))
    np.savez_compressed(HERE / "golden.npz", squash=np.asarray(squash), shortest=np.asarray(shortest))


if __name__ == "__main__":
    main()
