"""JPEG photographs for benchmarks of the data: real ones that libraries ship, their crops, and generated ones."""

from collections.abc import Iterator
import contextlib
import functools
import io
from pathlib import Path
import tempfile

import numpy as np
from PIL import Image

from harmopower.data import records, tokenize

CAPTIONS = (
    "a person in an orange suit stands in front of a flag and a model of a rocket",
    "a cup of coffee with a spoon on a wooden table",
    "a red motorcycle is parked in a garage beside a shelf full of boxes",
    "a pagoda stands on a hill above a lake under a hazy sky",
)
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


@contextlib.contextmanager
def photograph_data(count: int, size: tuple[int, int]) -> Iterator[tuple[records.Source, tokenize.Tokenizer]]:
    """A data set of photographs with captions, phrases and regions on disk, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        examples = map(make_example, range(count), photographs(count, size))
        records.write(folder, {"train": examples}, name="photographs")
        yield records.read(folder, "train"), tokenize.Tokenizer.train(CAPTIONS * 9, 400)


def make_example(index: int, image: bytes) -> records.Example:
    caption = CAPTIONS[index % len(CAPTIONS)]
    words = [(start, start + len(word)) for start, word in _words(caption)]
    spans = [(words[i][0], words[min(i + 3, len(words) - 1)][1]) for i in range(0, len(words) - 1, 2)]
    phrases = [(0, len(caption)), *spans]
    return {
        "id": f"{index:06d}",
        "image": image,
        "captions": [caption],
        "phrases": [{"caption": 0, "start": start, "end": end, "label": "NP"} for start, end in phrases],
        "regions": [
            {
                "box": [0.1 * i, 0.1 * i, 0.1 * i + 0.4, 0.1 * i + 0.5],
                "caption": 0,
                "start": start,
                "end": end,
                "text": "",
                "label": "",
            }
            for i, (start, end) in enumerate(spans[:5])
        ],
        "negatives": [],
    }


def _words(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for word in text.split(" "):
        yield start, word
        start += len(word) + 1
