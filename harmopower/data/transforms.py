"""Image and boxes together: crop, resize. No flips: captions say "left" and "right".

Windows and boxes are normalised `y0, x0, y1, x1`.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

MIN_VISIBLE = 0.25  # share of a box that a crop must keep; a sliver no longer shows what the box names (our choice)
_ASPECT = math.log(4 / 3)  # the range of a crop's aspect relative to its image, as in Inception's crops
WHOLE = (0.0, 0.0, 1.0, 1.0)

Window = tuple[float, float, float, float]


def fixed_window(size: tuple[int, int], image_size: int, resize_mode: str) -> Window:
    """The window of an image that is not cropped at random, in evaluation and where `min_crop_area` is 1.

    `squash` takes the whole image. `shortest` takes the centre square, the window that CLIP and OpenCLIP get from
    resizing the shorter side to `image_size` (the longer one rounded down) and cropping the centre (its offset rounded
    to even). Hugging Face rounds that offset down, so where the margin is odd its crop lies a pixel beside. Resizing
    only the window, as training does, is up to 2 of 255 levels off that; evaluation uses `fixed_view`, which is equal.

    Args:
      size: width and height of the image in pixels.
    """
    if resize_mode == "squash":
        return WHOLE
    short = min(size)
    width, height = (image_size * side // short for side in size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return top / height, left / width, (top + image_size) / height, (left + image_size) / width


def random_window(rng: np.random.Generator, min_crop_area: float) -> Window:
    """Draws a crop window that keeps a share of the image between `min_crop_area` and 1.

    Area uniform, aspect log-uniform within 3/4 to 4/3 of the image's own, place uniform (our choice, after Inception).
    """
    if min_crop_area >= 1:
        return WHOLE
    area = rng.uniform(min_crop_area, 1)
    aspect = math.exp(rng.uniform(-_ASPECT, _ASPECT))
    # A side cannot leave the image; the other one then makes up for it, so that the area is as drawn.
    width = max(area, min(1.0, math.sqrt(area * aspect)))
    height = area / width
    y0, x0 = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    return y0, x0, min(1.0, y0 + height), min(1.0, x0 + width)


def absolute_window(rng: np.random.Generator, min_crop_area: float, size: tuple[int, int]) -> Window:
    """Draws a crop window as torchvision's RandomResizedCrop and so OpenCLIP does: its aspect in pixels is 3/4 to 4/3.

    Ten times a window of a drawn area and aspect is tried; where none lies in the image (one twice as wide as high
    never has one of 0.9), it is the largest centred one of a legal aspect. Places are not rounded to pixels.

    Args:
      size: width and height of the image.
    """
    own = size[0] / size[1]
    for _ in range(10):
        area, aspect = rng.uniform(min_crop_area, 1), math.exp(rng.uniform(-_ASPECT, _ASPECT)) / own
        width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if width <= 1 and height <= 1:
            y0, x0 = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
            return y0, x0, y0 + height, x0 + width
    width, height = min(1.0, 4 / 3 / own), min(1.0, own / (3 / 4))
    return (1 - height) / 2, (1 - width) / 2, (1 + height) / 2, (1 + width) / 2


def crop_and_resize(image: Image.Image, window: Window, image_size: int, filter_name: str = "bicubic") -> np.ndarray:
    """Cuts the window and resizes it to a square with antialias: `uint8 [image_size, image_size, 3]`.

    A window that is not square is stretched; so are its boxes, which are shares of its sides.

    Args:
      filter_name: `bicubic`, CLIP's, or a quicker one: `hamming` (one level off on average, at single pixels up to
        34 of 255) or `box` (two, up to 93); measured in docs/benchmarks.md.
    """
    if window != WHOLE or image.size != (image_size, image_size):
        (y0, x0, y1, x1), (width, height) = window, image.size
        pixels = (x0 * width, y0 * height, x1 * width, y1 * height)
        image = image.resize((image_size, image_size), Image.Resampling[filter_name.upper()], box=pixels)
    return np.asarray(image)


def fixed_view(image: Image.Image, image_size: int, resize_mode: str) -> np.ndarray:
    """What `fixed_window` shows, and for `shortest` to the last bit as CLIP and OpenCLIP compute it.

    They resize the whole image and cut afterwards. `crop_and_resize` gives Pillow the window, whose edges it takes in
    single precision: quicker, and up to two of 255 levels beside theirs. Above an aspect of 16 the whole image would
    be too large to resize, and the window is taken here too.
    """
    window, short = fixed_window(image.size, image_size, resize_mode), min(image.size)
    if resize_mode == "squash" or max(image.size) > 16 * short:
        return crop_and_resize(image, window, image_size)
    width, height = (image_size * side // short for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC) if image.size != (width, height) else image
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    return np.asarray(resized.crop((left, top, left + image_size, top + image_size)))


def move_boxes(boxes: npt.ArrayLike, window: Window, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Moves boxes into the coordinates of a crop.

    Args:
      boxes: `float32 [M, 4]` in shares of the image.
      window: the crop, in shares of the image.
      image_size: side of the result in pixels.

    Returns:
      `float32 [M, 4]` in shares of the crop, clipped to it, and `bool [M]`: whether the box is kept. It is not where
      less than a quarter of its area is visible or a side is below one pixel.
    """
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    y0, x0, y1, x1 = window
    moved = (rows - np.array([y0, x0, y0, x0])) / np.array([y1 - y0, x1 - x0, y1 - y0, x1 - x0])
    clipped = moved.clip(0, 1)
    sides, full = clipped[:, 2:] - clipped[:, :2], moved[:, 2:] - moved[:, :2]
    visible = sides.prod(axis=1) >= MIN_VISIBLE * full.prod(axis=1)
    return clipped.astype(np.float32), visible & (sides * image_size >= 1).all(axis=1)
