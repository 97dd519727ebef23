"""How the protocols of box classification show an image and its boxes: padded, squashed, cut out, masked.

NumPy and Pillow only; boxes are x, y, width and height in pixels of the image. The definitions are those of
wusize/CLIPSelf (`src/open_clip/transform.py`, `src/training/data.py`), Timsty1/FineCLIP and 360CVGroup/FG-CLIP.
"""

import numpy as np
from PIL import Image

from harmopower.data.transforms import Shape

_ENLARGED = 0.75  # half of 1.5: how far a crop reaches from the centre, in sides of the box


def padded(picture: Image.Image, shape: Shape, centred: bool = False) -> np.ndarray:
    """As large as fits (bicubic), black right and below, or around: uint8 [*shape, 3]."""
    scale = min(shape[0] / picture.height, shape[1] / picture.width)
    width, height = (round(length * scale) for length in picture.size)
    canvas = np.zeros((*shape, 3), np.uint8)
    top, left = ((shape[0] - height) // 2, (shape[1] - width) // 2) if centred else (0, 0)
    size = (max(width, 1), max(height, 1))  # a sliver keeps a pixel
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    canvas[top : top + size[1], left : left + size[0]] = resized
    return canvas


def in_padded(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes [m, 4] of an image of that width and height as y0, x0, y1, x1 in shares of it `padded` to a square."""
    return shares(boxes, (max(size), max(size)))


def squashed(picture: Image.Image, shape: Shape, how: Image.Resampling) -> np.ndarray:
    """The whole image stretched: uint8 [*shape, 3]."""
    return np.asarray(picture.resize((shape[1], shape[0]), how))


def shares(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes [m, 4] as y0, x0, y1, x1 in shares of a width and height; float32."""
    x, y, width, height = np.asarray(boxes, np.float64).reshape(-1, 4).T
    edges = (y / size[1], x / size[0], (y + height) / size[1], (x + width) / size[0])
    return np.stack(edges, axis=1).astype(np.float32)


def cut_out(picture: Image.Image, box: np.ndarray, shape: Shape, enlarge: bool) -> np.ndarray:
    """A box, enlarged 1.5 times within the image or as it is, padded around: uint8 [*shape, 3]."""
    x, y, width, height = map(float, box)
    edges = (x, y, x + width, y + height)
    if enlarge:
        across, down = x + width / 2, y + height / 2
        edges = (
            max(across - width * _ENLARGED, 0),
            max(down - height * _ENLARGED, 0),
            min(across + width * _ENLARGED, picture.width),
            min(down + height * _ENLARGED, picture.height),
        )
    x0, y0, x1, y1 = map(round, edges)
    return padded(picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))), shape, centred=True)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box around a mask as CLIPSelf measures it: from the first to the last pixel, that one not included."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)), int(np.ptp(rows))


def patches(mask: np.ndarray, grid: int) -> np.ndarray:
    """Which patches of the padded image a mask [H, W] is on: bool [grid * grid].

    Resized as an image is, bicubic without antialias (torchvision's way with tensors before 0.17), and above 0.
    """
    scale = grid / max(mask.shape)
    height, width = (max(round(length * scale), 1) for length in mask.shape)
    found = np.zeros((grid, grid), bool)
    down, across = _cubic(mask.shape[0], height), _cubic(mask.shape[1], width)
    found[:height, :width] = down @ mask.astype(np.float32) @ across.T > 0
    return found.reshape(-1)


def touched(mask: np.ndarray, grid: Shape) -> np.ndarray:
    """Which patches of the squashed image a mask [H, W] is on, by whole pixels: bool [rows * columns].

    No paper reads masks there, so this is our choice: such patches are large, and `patches`, which looks at four pixels
    about the middle of each, would see nothing of a small thing.
    """
    down, across = (_meets(size, parts) for size, parts in zip(mask.shape, grid, strict=True))
    return (down @ mask.astype(np.float32) @ across.T > 0).reshape(-1)


def _meets(size: int, parts: int) -> np.ndarray:
    """[parts, size], 1 where a pixel has a piece of a part; in whole numbers, so that nothing is rounded."""
    pixel, part = np.arange(size), np.arange(parts)[:, None]
    return ((pixel * parts < (part + 1) * size) & ((pixel + 1) * parts > part * size)).astype(np.float32)


def _cubic(size: int, new: int) -> np.ndarray:
    """[new, size], the weights of four pixels about each place (Keys, a = -0.75), the edge repeated; float32."""
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(size / new) - np.float32(0.5)
    first = np.floor(places).astype(int)
    matrix = np.zeros((new, size), np.float32)
    for tap in range(-1, 3):
        weight = _keys(np.abs(places - (first + tap)).astype(np.float32))
        np.add.at(matrix, (np.arange(new), (first + tap).clip(0, size - 1)), weight)
    return matrix


def _keys(distance: np.ndarray) -> np.ndarray:
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far).astype(np.float32)
