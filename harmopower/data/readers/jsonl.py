"""Own data as JSON lines: one image a line, with captions, and trees and boxes where there are any.

    {"image": "photos/17.jpg", "caption": "a dog on a sofa",
     "tree": "(NP (NP (DT a) (NN dog)) (PP (IN on) (NP (DT a) (NN sofa))))",
     "boxes": [{"box": [0.3, 0.1, 0.9, 0.6], "span": [0, 5], "label": "dog"}]}

`image` is relative to the file. Several captions: `captions` and `trees`, lists of equal length (a tree may be null).
A box is y0, x0, y1, x1 as shares of height and width (`--box-format` knows others), with a `span` (first and
last-plus-one character) of the caption number `caption` (0 unless given), or a `text` of its own; both may be left out.
`id` is the line number unless given, `split` that of the file.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TypeGuard
import zlib

from harmopower.data import trees
from harmopower.data.readers import boxes, protocol
from harmopower.data.readers.protocol import BadSample

_FIELDS = {"id", "image", "caption", "captions", "tree", "trees", "boxes", "split"}
_PIXELS = 2  # a share above this is no rounding error
_BOX_FIELDS = {"box", "caption", "span", "text", "label"}


class Reader(protocol.Reader):
    """Own images and captions, one JSON object a line."""

    example = "python -m tools.prepare jsonl --input photos.jsonl --output data/photos --test-fraction 0.05"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        if not 0 <= options.test_fraction < 1:
            raise protocol.ReaderError(f"--test-fraction is {options.test_fraction}; it must be at least 0 and below 1")
        for _, path in self.inputs:
            if not path.is_file():
                raise protocol.ReaderError(f"--input {path} is not a file")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "files of JSON lines")
        parser.add_argument(
            "--images", metavar="DIR", help="folder that image paths are relative to (default: that of the file)"
        )
        parser.add_argument(
            "--test-fraction",
            type=float,
            default=0.0,
            help="share of the images for the split test, of those that would go to train; the name of an image "
            "decides, so that several lines with one image stay together and a longer file keeps its split "
            "(default %(default)s)",
        )
        boxes.add_option(parser)

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of lines; `place` is their first byte, the byte behind them, the lines before them, the input."""
        for number, (_, path) in enumerate(self.inputs):
            starts = [0]
            for unit in protocol.units_of_images(path, "", self._images(path, starts)):
                first, last = unit.place
                yield dataclasses.replace(unit, place=(starts[first], starts[last], first, number))

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The lines of a unit."""
        start, stop, before, number = unit.place
        with open(unit.path, "rb") as file:
            file.seek(start)
            while file.tell() < stop and (line := file.readline()):
                before += 1
                if line.strip():
                    yield self._item(line, before, number)

    def _item(self, line: bytes, number: int, file: int) -> protocol.Item:
        # Line numbers alone would not be unique over several files.
        name = f"{file}-{number}" if len(self.inputs) > 1 else f"{number}"
        where = f"{self.inputs[file][1].name} line {number}"
        item = protocol.attempt(name, self._found, line, name, file)
        if isinstance(item, protocol.LeftOut):
            return dataclasses.replace(item, text=f"{where}: {item.text}")
        return dataclasses.replace(item, where=where)

    def _found(self, line: bytes, name: str, file: int) -> protocol.Found:
        values = _parse(line)
        captions = _several(values, "caption", "captions")
        if not captions:
            text = f"field caption: the line has neither caption nor captions, but {_named(values)}"
            raise BadSample("missing_key", text, values)
        _refuse_unknown(values, _FIELDS, "")
        split = self._split(values, self.inputs[file][0])
        image = protocol.read_image(self._folder(self.inputs[file][1]), values["image"])
        regions, notes = self._regions(values, image)
        example = {
            "id": str(values.get("id", name)),
            "image": image,
            "captions": captions,
            "phrases": _phrases(values, captions),
            "regions": regions,
            "negatives": [],
        }
        return protocol.Found(example, split, notes=tuple(notes))

    def _folder(self, path: Path) -> Path:
        return Path(self.options.images) if self.options.images else path.parent

    def _images(self, path: Path, starts: list[int]) -> Iterator[str]:
        """The image of each line, and into `starts` the byte after it."""
        with open(path, "rb") as file:
            for line in file:
                starts.append(starts[-1] + len(line))
                try:
                    yield os.path.join(self._folder(path), _parse(line)["image"])
                except BadSample:
                    yield ""  # it is reported when the line is read

    def _split(self, values: dict, split: str) -> str:
        if "split" in values:
            split = values["split"]
            if not isinstance(split, str) or not protocol.is_split(split):
                raise BadSample("bad_field", f"field split: {split!r} is no name of a split; letters, digits and _ are")
            return split
        is_test = zlib.crc32(values["image"].encode()) < self.options.test_fraction * 2**32
        return "test" if split == protocol.DEFAULT_SPLIT and is_test else split

    def _regions(self, values: dict, image: bytes) -> tuple[list[dict], list[tuple[str, str]]]:
        found = values.get("boxes", [])
        if not isinstance(found, list):
            raise BadSample("bad_field", f"field boxes: it must be a list, not {found!r}")
        kind = self.options.box_format
        size = protocol.image_size(image) if found and kind.endswith("_pixels") else None
        regions, notes = [], []
        for index, box in enumerate(found):
            try:
                regions.append(_region(box, f"boxes[{index}]", kind, size))
            except BadSample as error:
                if not self.options.drop_bad_boxes:
                    raise
                notes.append((error.reason, str(error)))
        return regions, notes


def _parse(line: bytes) -> dict:
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise BadSample("not_utf8", f"the line is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadSample("unreadable", f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadSample("unreadable", f"not a JSON object: {type(values).__name__}")
    if not isinstance(values.get("image"), str):
        text = f"field image: the line has no image, a path relative to the file, but {_named(values)}"
        raise BadSample("missing_key", text, values)
    return values


def _named(values: dict) -> str:
    """The fields that a line has, which show how a missing one was misspelled."""
    return ", ".join(map(repr, list(values)[:10])) or "nothing"


def _refuse_unknown(values: dict, known: set[str], where: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        there = ", ".join(sorted(known))
        raise BadSample("bad_field", f"field {where}{unknown[0]}: unknown; there are {there}")


def _several(values: dict, one: str, many: str) -> list:
    """The values of a field that may be given once or as a list."""
    if one in values and many in values:
        raise BadSample("bad_field", f"field {many}: give {one} or {many}, not both")
    found = values.get(many, [values[one]] if one in values else [])
    if not isinstance(found, list):
        raise BadSample("bad_field", f"field {many}: it must be a list, not {found!r}")
    for value in found:
        if not isinstance(value, str) and not (value is None and many == "trees"):
            raise BadSample("bad_field", f"field {many if many in values else one}: it must be text, not {value!r}")
    return found


def _phrases(values: dict, captions: list[str]) -> list[dict]:
    found = _several(values, "tree", "trees")
    if found and len(found) != len(captions):
        message = f"field trees: {len(found)} trees for {len(captions)} captions; null stands for none"
        raise BadSample("bad_tree", message)
    phrases = []
    for caption, tree in enumerate(found):
        try:
            spans = trees.spans_from_penn(tree, captions[caption]) if tree else []
        except trees.TreeError as error:
            raise BadSample("bad_tree", f"field {'trees' if 'trees' in values else 'tree'}: {error}") from error
        phrases += [{"caption": caption, "start": start, "end": end, "label": label} for start, end, label in spans]
    return phrases


def _region(values, where: str, kind: str, size: tuple[int, int] | None) -> dict:
    if not isinstance(values, dict):
        raise BadSample("bad_box", f'field {where}: it must be like {{"box": [y0, x0, y1, x1]}}, not {values!r}')
    _refuse_unknown(values, _BOX_FIELDS, f"{where}.")
    box = values.get("box")
    if not _are_numbers(box, (int, float), 4):
        raise BadSample("bad_box", f"field {where}.box: it must be 4 numbers ({kind}), not {box!r}")
    if not kind.endswith("_pixels") and _PIXELS < max(box) < math.inf:
        raise BadSample(
            "box_outside",
            f"field {where}.box: {box} looks like pixels, but --box-format is {kind}, shares of the sides; for pixels "
            f"give it as {kind}_pixels, or xywh_pixels as in COCO's files",
        )
    region = {
        "box": boxes.normalise(box, kind, size),
        "caption": -1,
        "start": -1,
        "end": -1,
        "text": values.get("text", ""),
        "label": values.get("label", ""),
    }
    for name in ("text", "label"):
        if not isinstance(region[name], str):
            raise BadSample("bad_field", f"field {where}.{name}: it must be text, not {region[name]!r}")
    return region | _span(values, where)


def _span(values: dict, where: str) -> dict:
    if "span" not in values:
        return {}
    span, caption = values["span"], values.get("caption", 0)
    if not _are_numbers(span, int, 2) or not isinstance(caption, int):
        message = f"field {where}.span: it must be [start, end] of a caption number, not {span!r}"
        raise BadSample("bad_span", message)
    return {"caption": caption, "start": span[0], "end": span[1]}


def _are_numbers(value, kind, length: int) -> TypeGuard[list]:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    )
