"""Image and boxes together: crop, resize, pad. No flips: captions say "left" and "right".

A window of an image becomes the `content` of a frame, rows and columns of pixels from the top left corner; the frame
has the `shape` that the model sees, and what its content does not fill is padding, which only `letterbox` has. Windows
and boxes are normalised `y0, x0, y1, x1`; shapes are height and width, sizes of images are Pillow's width and height.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

MIN_VISIBLE = 0.25  # share of a box that a crop must keep; a sliver no longer shows what the box names (our choice)
_ASPECT = math.log(4 / 3)  # the range of a crop's aspect relative to its image, as in Inception's crops
WHOLE = (0.0, 0.0, 1.0, 1.0)

RESIZE_MODES = ("squash", "shortest", "letterbox")

Window = tuple[float, float, float, float]
Shape = tuple[int, int]  # height and width in pixels


def shape_of(data) -> Shape:
    """Height and width of the images of `config.data`, or of what has its fields `image_size` and `image_width`."""
    return data.image_size, data.image_width or data.image_size


def fixed_window(size: tuple[int, int], shape: Shape, resize_mode: str) -> Window:
    """The window of an image that is not cropped at random, in evaluation and where `min_crop_area` is 1.

    `squash` and `letterbox` take the whole image. `shortest` takes the centre of the frame's aspect: of a square one
    the window that CLIP and OpenCLIP get from resizing the shorter side to it (the longer one rounded down) and
    cropping the centre (its offset rounded to even). Hugging Face rounds that offset down, so where the margin is odd
    its crop lies a pixel beside. Resizing only the window, as training does, is up to 2 of 255 levels off that;
    evaluation uses `fixed_view`, which is equal.

    Args:
      size: width and height of the image in pixels.
    """
    if resize_mode != "shortest":
        return WHOLE
    width, height = _covering(size, shape)
    left, top = _margin(width, shape[1]), _margin(height, shape[0])
    return top / height, left / width, (top + shape[0]) / height, (left + shape[1]) / width


def _covering(size: tuple[int, int], shape: Shape) -> tuple[int, int]:
    """Width and height of the smallest resized image that covers the frame.

    The longer side for a square is rounded down, as CLIP and OpenCLIP do, that for a rectangle as OpenCLIP does.
    """
    if shape[0] != shape[1]:
        ratio = min(size[1] / shape[0], size[0] / shape[1])
        return round(size[0] / ratio), round(size[1] / ratio)
    across = size[0] * shape[0] <= size[1] * shape[1]  # the width is what just fits
    resized, own = (shape[1], size[0]) if across else (shape[0], size[1])
    width, height = (resized * side // own for side in size)
    return width, height


def _margin(length: int, kept: int) -> int:
    return round((length - kept) / 2)


def content_of(size: tuple[int, int], window: Window, shape: Shape, resize_mode: str) -> Shape:
    """Rows and columns of pixels that a window fills of its frame: with `letterbox` the largest of its own aspect.

    Args:
      size: width and height of the whole image in pixels.
    """
    if resize_mode != "letterbox":
        return shape
    height, width = (window[2] - window[0]) * size[1], (window[3] - window[1]) * size[0]
    scale = min(shape[0] / height, shape[1] / width)
    # A sliver keeps a pixel.
    return min(max(round(height * scale), 1), shape[0]), min(max(round(width * scale), 1), shape[1])


def padded(pixels: np.ndarray, shape: Shape) -> np.ndarray:
    """The frame with the content at its top left: `uint8 [*shape, 3]`.

    Padding is black here, and no one looks at it: the model puts the mean in its place (`models.clip`).
    """
    if pixels.shape[:2] == tuple(shape):
        return pixels
    frame = np.zeros((*shape, 3), np.uint8)
    frame[: pixels.shape[0], : pixels.shape[1]] = pixels
    return frame


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


def crop_and_resize(image: Image.Image, window: Window, shape: Shape, filter_name: str = "bicubic") -> np.ndarray:
    """Cuts the window and resizes it with antialias: `uint8 [*shape, 3]`.

    A window of another aspect is stretched; so are its boxes, which are shares of its sides.

    Args:
      filter_name: `bicubic`, CLIP's, or a quicker one: `hamming` (one level off on average, at single pixels up to
        34 of 255) or `box` (two, up to 93); measured in docs/benchmarks.md.
    """
    if window != WHOLE or image.size != (shape[1], shape[0]):
        (y0, x0, y1, x1), (width, height) = window, image.size
        pixels = (x0 * width, y0 * height, x1 * width, y1 * height)
        image = image.resize((shape[1], shape[0]), Image.Resampling[filter_name.upper()], box=pixels)
    return np.asarray(image)


def fixed_view(image: Image.Image, shape: Shape, resize_mode: str) -> np.ndarray:
    """What `fixed_window` shows, without padding, and for `shortest` to the last bit as CLIP and OpenCLIP compute it.

    They resize the whole image and cut afterwards. `crop_and_resize` gives Pillow the window, whose edges it takes in
    single precision: quicker, and up to two of 255 levels beside theirs. Above an aspect of 16 the whole image would
    be too large to resize, and the window is taken here too.
    """
    window = fixed_window(image.size, shape, resize_mode)
    if resize_mode != "shortest" or max(image.size) > 16 * min(image.size):
        return crop_and_resize(image, window, content_of(image.size, window, shape, resize_mode))
    width, height = _covering(image.size, shape)
    resized = image.resize((width, height), Image.Resampling.BICUBIC) if image.size != (width, height) else image
    left, top = _margin(width, shape[1]), _margin(height, shape[0])
    return np.asarray(resized.crop((left, top, left + shape[1], top + shape[0])))


def move_boxes(
    boxes: npt.ArrayLike, window: Window, shape: Shape, content: Shape | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Moves boxes into the coordinates of a frame.

    Args:
      boxes: `float32 [M, 4]` in shares of the image.
      window: the crop, in shares of the image.
      shape: of the frame.
      content: what the crop fills of it; None: all.

    Returns:
      `float32 [M, 4]` in shares of the frame, clipped to its content, and `bool [M]`: whether the box is kept. It is
      not where less than a quarter of its area is visible or a side is below one pixel.
    """
    content = content or shape
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    y0, x0, y1, x1 = window
    moved = (rows - np.array([y0, x0, y0, x0])) / np.array([y1 - y0, x1 - x0, y1 - y0, x1 - x0])
    clipped = moved.clip(0, 1)
    sides, full = clipped[:, 2:] - clipped[:, :2], moved[:, 2:] - moved[:, :2]
    visible = sides.prod(axis=1) >= MIN_VISIBLE * full.prod(axis=1)
    filled = np.tile(np.divide(content, shape), 2)
    return (clipped * filled).astype(np.float32), visible & (sides * content >= 1).all(axis=1)
