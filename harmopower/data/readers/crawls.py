"""What img2dataset leaves beside and around images: where a picture lies in its file, and what a crawl has got.

By default img2dataset (`resize_mode=border`) scales the longer side of a picture to `image_size` and pads the other
with white. Boxes in shares of the picture then no longer fit the file, and a model learns borders. The JSON of a
sample gives the sizes before and after (`original_width`, `original_height`, `width`, `height`), but not the mode, and
a square file of an oblong picture may as well come from `center_crop`. A crawl has one mode, so the pixels of its first
oblong pictures decide for all: are the strips that padding would have filled white?

Fields, files and the arithmetic of both modes: rom1504/img2dataset, `downloader.py`, `resizer.py`, `logger.py`.
"""

import argparse
import collections
from collections.abc import Iterable, Iterator, Sequence
import functools
import itertools
from pathlib import Path
import sys
from typing import Any

import numpy as np

from harmopower.data import files, images
from harmopower.data.readers import protocol, tars
from harmopower.errors import RecordError

BORDER, CENTER_CROP = "border", "center_crop"
_LOOKED_AT, _SEEN = 32, 500  # oblong pictures that decide, of so many samples of a crawl (our choice)
_WHITE = 240  # and above: padding is 255 before JPEG
_REASONS = 10  # of failures, the most frequent ones
_COUNTS = ("count", "successes", "failed_to_download", "failed_to_resize")

Box = tuple[float, float, float, float]


class Reader(tars.Reader):
    """What formats share whose images were crawled by img2dataset."""

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of every such format."""
        super().add_options(parser)
        parser.add_argument(
            "--border",
            choices=("keep", "cut"),
            default="keep",
            help="white borders that img2dataset has padded (resize_mode=border): keep them, boxes moved along, or cut "
            "them, which re-encodes those images (default %(default)s)",
        )

    def units(self) -> Iterator[protocol.Unit]:
        """Whole tars; warns of borders, before hours of work."""
        for line in self._warnings():
            print(line, file=sys.stderr, flush=True)
        yield from super().units()

    def summary(self) -> list[str]:
        """What the crawls have got, and borders."""
        return [*failures([path for _, path in self.tars]), *self._warnings()]

    def _warnings(self) -> Iterator[str]:
        for folder in dict.fromkeys(path.parent for _, path in self.tars):
            if self.mode(folder) == BORDER:
                done = "cut (--border cut)" if self.options.border == "cut" else "kept; --border cut removes them"
                yield f"{folder}: pictures are padded with white (img2dataset's resize_mode=border): {done}"

    def mode(self, folder: Path) -> str:
        """How the pictures of a folder were made square; empty where none of the first ones was."""
        return self._modes(folder)

    @functools.cached_property
    def _modes(self):
        return functools.cache(lambda folder: mode(path for _, path in self.tars if path.parent == folder))

    def placed(self, sample: tars.Sample, unit: protocol.Unit, facts: dict) -> tuple[bytes, Box, list]:
        """The image as it is to be stored, where the whole picture lies in it, and notes."""
        image, kind = sample.image(), self.mode(Path(unit.path).parent)
        lies = place(facts, kind)
        if lies is None:
            return image, (0.0, 0.0, 1.0, 1.0), []
        if kind == BORDER and self.options.border == "cut":
            return cut(image, lies, self.options.quality), (0.0, 0.0, 1.0, 1.0), [("border_cut", "")]
        return image, lies, []


def aliases(facts: dict) -> tuple[str, ...]:
    """What `--exclude` may name besides the id: the hash of the file as it was fetched, before it was re-encoded."""
    return (facts["sha256"],) if isinstance(facts.get("sha256"), str) else ()


def place(facts: dict, kind: str) -> Box | None:
    """Where the whole picture lies in a square file, as y0, x0, y1, x1 in shares of it; outside it where cropped.

    Args:
      facts: the JSON of a sample.
      kind: `BORDER` or `CENTER_CROP`, else None comes back.

    Returns:
      None also where the file is not square, the picture was, or the sizes are not told.
    """
    sizes: list[Any] = [facts.get(name) for name in ("width", "height", "original_width", "original_height")]
    if kind not in (BORDER, CENTER_CROP) or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    side, height, *original = sizes
    scale = side / (max if kind == BORDER else min)(original)
    scaled = [round(size * scale) for size in original]
    if side != height or scaled == [side, side]:
        return None
    # Half of what is missing or too much lies left and above, rounded towards the corner.
    left, top = [(side - size) // 2 if kind == BORDER else -((size - side) // 2) for size in scaled]
    return top / side, left / side, (top + scaled[1]) / side, (left + scaled[0]) / side


def moved(box: Sequence[float], lies: Box) -> list[float]:
    """A box in shares of the picture as shares of the file in which the picture lies at `lies`."""
    y0, x0, y1, x1 = lies
    height, width = y1 - y0, x1 - x0
    return [y0 + box[0] * height, x0 + box[1] * width, y0 + box[2] * height, x0 + box[3] * width]


def cut(image: bytes, lies: Box, quality: int) -> bytes:
    """The part of an image at `lies`, as a JPEG.

    Raises:
      BadSample: `image_broken`.
    """
    pixels = _decoded(image)
    y0, x0, y1, x1 = lies
    width, height = pixels.size
    return images.encode_jpeg(
        pixels.crop((round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))), quality
    )


def _decoded(image: bytes):
    try:
        return images.decode(image)
    except RecordError as error:
        raise protocol.BadSample("image_broken", str(error)) from error


def mode(paths: Iterable[Path]) -> str:
    """`BORDER` or `CENTER_CROP` where the first oblong pictures of these tars were made square so, else empty."""
    first = itertools.islice(itertools.chain.from_iterable(map(tars.samples, paths)), _SEEN)
    votes = list(itertools.islice(_votes(first), _LOOKED_AT))
    if not votes:
        return ""
    return BORDER if sum(votes) * 2 > len(votes) else CENTER_CROP


def _votes(samples: Iterable) -> Iterator[bool]:
    """For each oblong picture in a square file: are the strips white that padding would have filled?"""
    for sample in samples:
        try:
            if isinstance(sample, tars.Sample) and (lies := place(sample.facts(), BORDER)) is not None:
                yield _is_white(np.asarray(_decoded(sample.image())), lies)
        except protocol.BadSample:  # it is reported when it is read
            continue


def _is_white(pixels: np.ndarray, lies: Box) -> bool:
    height, width = pixels.shape[:2]
    y0, x0, y1, x1 = (round(value * size) for value, size in zip(lies, (height, width, height, width)))
    strips = (pixels[:y0], pixels[y1:], pixels[:, :x0], pixels[:, x1:])
    return bool(np.median(np.concatenate([strip.ravel() for strip in strips])) >= _WHITE)


def failures(paths: Iterable[Path]) -> list[str]:
    """A table of what was asked of crawls and what came, from the `_stats.json` beside their tars; empty if none has.

    A crawler writes that file when a tar is finished, so tars without one are named.
    """
    stats = {path.name: _stats(path) for path in paths}
    finished = [found for found in stats.values() if found]
    if not finished:
        return []
    counts = {name: sum(_number(found.get(name)) for found in finished) for name in _COUNTS}
    line = (
        "crawl: {count} asked, {successes} fetched ({share:.1%}), {failed_to_download} not downloaded, "
        "{failed_to_resize} not decoded or resized"
    )
    lines = [line.format(share=counts["successes"] / max(1, counts["count"]), **counts), *_reasons(finished)]
    unfinished = [name for name, found in stats.items() if not found]
    if unfinished:
        more = " ..." if len(unfinished) > 5 else ""
        lines.append(f"{len(unfinished)} tars have no _stats.json, unfinished: {', '.join(unfinished[:5])}{more}")
    return lines


def _reasons(finished: list[dict]) -> list[str]:
    reasons = collections.Counter()
    for found in finished:
        told = found.get("status_dict")
        reasons.update({name: _number(count) for name, count in told.items()} if isinstance(told, dict) else {})
    failed = [(name, count) for name, count in reasons.most_common() if name != "success"]
    rest = sum(count for _, count in failed[_REASONS:])
    lines = [f"{count:>9}  {name}" for name, count in failed[:_REASONS]]
    return lines + ([f"{rest:>9}  {len(failed) - _REASONS} other reasons"] if rest else [])


def _stats(path: Path) -> dict | None:
    found = files.read_json(path.with_name(f"{path.stem}_stats.json"))
    return found if isinstance(found, dict) else None


def _number(value) -> int:
    return value if isinstance(value, int) else 0
