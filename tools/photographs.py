"""JPEG photographs for benchmarks of the data: real ones that libraries ship, their crops, and generated ones."""

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

_SHIPPED = {
    "skimage.data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "motorcycle_right.png",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
_SHARE_GENERATED = 0.25


def photographs(count: int, size: tuple[int, int], seed: int = 0, quality: int = 92) -> list[bytes]:
    """Encoded JPEGs (4:2:0), no two alike: the shipped photographs whole, then three crops for each generated one.

    Args:
      size: width and height in pixels.

    Raises:
      ValueError: scikit-image or scikit-learn is missing.
    """
    shipped = _load_shipped()
    rng = np.random.default_rng(seed)
    made = [image.resize(size, Image.Resampling.LANCZOS) for image in shipped[:count]]
    while len(made) < count:
        generate = rng.random() < _SHARE_GENERATED
        made.append(_generate(rng, size) if generate else _crop(rng, shipped[rng.integers(len(shipped))], size))
    return [_encode(image, quality) for image in made]


@functools.cache
def _load_shipped() -> list[Image.Image]:
    images = []
    for module, names in _SHIPPED.items():
        try:
            folder = Path(__import__(module, fromlist=["_"]).__file__).parent
        except ImportError as error:
            raise ValueError(
                f"the photographs of {module} are missing: pip install scikit-image scikit-learn"
            ) from error
        images += [Image.open(folder / name).convert("RGB") for name in names]
    return images


def _crop(rng: np.random.Generator, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(image.width / size[0], image.height / size[1]) * rng.uniform(0.5, 1)
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))


def _generate(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Noise whose amplitude falls with 1 / frequency, as in photographs (Field 1987), mostly equal in all channels."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf

    def layer():
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency, (height, width))
        return noise / noise.std()

    grey = layer()
    channels = [grey + 0.15 * layer() for _ in range(3)]
    return Image.fromarray((128 + 50 * np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()
