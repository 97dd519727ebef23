"""JSON files that annotate folders of images: loading them whole, and ranges of their lists as units of work."""

from collections.abc import Iterable, Iterator
import dataclasses
import json
from pathlib import Path
import re

from harmopower.data.readers import protocol


def load(path: Path, *lists: str):
    """The JSON of a file, an object in which each of `lists` is a list; whatever it is, where none is named.

    Raises:
      ReaderError: it cannot be read, or lacks a list; the text names what it has.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise protocol.ReaderError(f"{path} cannot be read as JSON: {error}") from error
    for name in lists:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            there = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
            raise protocol.ReaderError(
                f"--input {path} has no list {name!r}, which this format is about; it has: {there}"
            )
    return content


def load_list(path: Path) -> list:
    """The JSON of a file that is a list.

    Raises:
      ReaderError: it cannot be read, or is none.
    """
    content = load(path)
    if not isinstance(content, list):
        there = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise protocol.ReaderError(f"{path} is not a list of images, which this format is about; it has: {there}")
    return content


def units(path: Path, split: str, images: Iterable, number: int = 0) -> Iterator[protocol.Unit]:
    """Ranges of the images that the file lists; `place` is the first, the one behind the last, and `number`.

    Args:
      path: the file.
      split: of all of them, or empty.
      images: their paths in the order of the list; one that is wrong may be anything, it is reported when it is read.
      number: of the file among the inputs.
    """
    for unit in protocol.units_of_images(path, split, images):
        yield dataclasses.replace(unit, place=(*unit.place, number))


def folder_of(name: str, option: str) -> Path:
    """An option's folder of images, absolute, since workers of a cluster stand elsewhere.

    Raises:
      ReaderError: it is no folder.
    """
    if not Path(name).is_dir():
        raise protocol.ReaderError(f"{option} {name} is not a folder")
    return Path(name).absolute()


def place(folder: Path, entry, key: str = "file_name") -> str:
    """The path of an entry's image for `units`; empty for an entry that has none."""
    try:
        return str(protocol.inside(folder, entry[key]))
    except (protocol.BadSample, KeyError, TypeError):
        return ""


def region(box, span: tuple[int, int, int] = (-1, -1, -1), text: str = "", label: str = "") -> dict:
    """A region of an example: box as y0, x0, y1, x1 in shares, span as (caption, start, end)."""
    caption, start, end = span
    return {"box": box, "caption": caption, "start": start, "end": end, "text": text, "label": label}


def clip(box: list[float]) -> list[float]:
    """The part of a box that lies in the image; NaN stays, so that it is reported."""
    return [value if value != value else min(max(value, 0.0), 1.0) for value in box]


def coco_aliases(name: str) -> tuple[str, ...]:
    """The COCO id in a file name of the 2014 release, `COCO_val2014_000000391895.jpg`, for `--guard`; else nothing."""
    match = re.fullmatch(r"COCO_(?:train|val|test)2014_(\d{12})\.jpg", Path(name).name)
    return (f"coco:{int(match[1])}",) if match else ()
