"""Boxes of other conventions as ours: y0, x0, y1, x1 in shares of the height and width of the upright image."""

import argparse
from collections.abc import Sequence

FORMATS = ("yxyx", "xyxy", "xywh", "yxyx_pixels", "xyxy_pixels", "xywh_pixels")


def normalise(box: Sequence[float], kind: str, size: tuple[int, int] | None = None) -> list[float]:
    """Four numbers of one of `FORMATS` as y0, x0, y1, x1 in shares; nothing is clipped, rounded or checked.

    Args:
      box: `xywh` is left, top, width, height; pixels count from 0 at the left upper corner of the first one.
      kind: without `_pixels` the numbers are shares of the image's sides already.
      size: width and height of the upright image, for pixels.
    """
    order, _, unit = kind.partition("_")
    a, b, c, d = box
    if order == "xywh":
        c, d = a + c, b + d
    x0, y0, x1, y1 = (b, a, d, c) if order == "yxyx" else (a, b, c, d)
    width, height = size if unit else (1, 1)
    return [y0 / height, x0 / width, y1 / height, x1 / width]


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--box-format`, for formats whose files do not say what their boxes mean."""
    parser.add_argument(
        "--box-format",
        choices=FORMATS,
        default=FORMATS[0],
        help="what the four numbers of a box are: shares of the sides, or pixels from the left upper corner; xywh is "
        "left, top, width, height (default %(default)s)",
    )
