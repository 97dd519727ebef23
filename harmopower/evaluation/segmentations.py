"""What COCO and LVIS write as the `segmentation` of an instance, as masks: polygons, or runs of pixels.

A list of polygons, each `[x, y, x, y, ...]` in pixels: a pixel is in where its middle lies within one of them (by the
rule of odd and even). Or `{"size": [height, width], "counts": ...}`: the lengths of runs that are out and in by turns,
down the columns; a list of numbers, or a text that packs them (cocodataset/cocoapi `common/maskApi.c`: five bits a
character from '0' on, the sixth says that more follow, and from the fourth run on the difference to the run before the
last). That program draws polygons by rounding their outline to fifths of a pixel, so pixels of the edge may differ.
"""

from typing import NamedTuple

import numpy as np

from harmopower.errors import RecordError

_MORE, _SIGN, _FIVE = 0x20, 0x10, 0x1F


class Polygons(NamedTuple):
    """Corners [n, 2], x and y, float32: half the memory, and a hundredth of a pixel is all that files have."""

    corners: tuple[np.ndarray, ...]


class Runs(NamedTuple):
    """Lengths of runs that are out and in by turns, down the columns of a mask of that height and width."""

    lengths: np.ndarray
    size: tuple[int, int]


def read(segmentation) -> Polygons | Runs | None:
    """What a file's `segmentation` says; None where it says nothing that can be drawn."""
    try:
        if isinstance(segmentation, dict):
            height, width = map(int, segmentation["size"])
            counts = segmentation["counts"]
            lengths = np.array(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
            fits = lengths.min() >= 0 and lengths.sum() == height * width
            return Runs(lengths, (height, width)) if fits else None
        corners = tuple(np.array(polygon, np.float32).reshape(-1, 2) for polygon in segmentation)
        return Polygons(corners) if any(len(each) > 2 for each in corners) else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _unpacked(counts: str) -> list[int]:
    found, value, shift = [], 0, 0
    for character in counts:
        bits = ord(character) - ord("0")
        value |= (bits & _FIVE) << shift
        shift += 5
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value, shift = 0, 0
    return found


def mask(segmentation: Polygons | Runs, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of an image of that height and width that are in: bool [H, W].

    Raises:
      RecordError: the runs are of an image of another size.
    """
    if isinstance(segmentation, Polygons):
        return np.logical_or.reduce([_inside(corners, shape) for corners in segmentation.corners])
    if segmentation.size != shape:
        raise RecordError(f"a segmentation is of {segmentation.size} pixels (height, width), its image of {shape}")
    inside = np.arange(len(segmentation.lengths)) % 2 == 1
    return np.repeat(inside, segmentation.lengths).reshape(shape[::-1]).T


def _inside(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Along a row, each edge that it crosses turns out into in for all pixels with their middle right of it."""
    height, width = shape
    (x0, y0), (x1, y1) = (ends.astype(np.float64).T for ends in (corners, np.roll(corners, -1, axis=0)))
    first, last = (np.ceil(end(y0, y1) - 0.5).astype(int).clip(0, height) for end in (np.minimum, np.maximum))
    edges = np.repeat(np.arange(len(corners)), last - first)
    rows = np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)])
    across = x0[edges] + (rows + 0.5 - y0[edges]) * ((x1 - x0)[edges] / (y1 - y0)[edges])
    turns = np.zeros((height, width + 1), bool)
    np.logical_xor.at(turns, (rows, np.ceil(across - 0.5).astype(int).clip(0, width)), True)
    return np.logical_xor.accumulate(turns[:, :width], axis=1)
