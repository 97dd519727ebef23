"""Own data as JSON lines: one image a line, with captions, and trees and boxes where there are any.

    {"image": "photos/17.jpg", "caption": "a dog on a sofa",
     "tree": "(NP (NP (DT a) (NN dog)) (PP (IN on) (NP (DT a) (NN sofa))))",
     "boxes": [{"box": [0.3, 0.1, 0.9, 0.6], "span": [0, 5], "label": "dog"}]}

`image` is relative to the file. Several captions: `captions` and `trees`, lists of equal length (a tree may be null).
A box is y0, x0, y1, x1 as shares of height and width, with a `span` (first and last-plus-one character) of the caption
number `caption` (0 unless given), or a `text` of its own; both may be left out. `id` is the line number unless given.
"""

from collections.abc import Callable, Iterator
import json
from pathlib import Path
import zlib

from harmopower.data import records, trees

_FIELDS = {"id", "image", "caption", "captions", "tree", "trees", "boxes"}
_BOX_FIELDS = {"box", "caption", "span", "text", "label"}


class LineError(ValueError):
    """A line that cannot be used; the text names the line, the field and what is wrong."""


def examples(path, split: str, test_fraction: float, report: Callable[[LineError], None]) -> Iterator[records.Example]:
    """Yields the examples of a split.

    Args:
      path: the file.
      split: `train` or `test`.
      test_fraction: share of the images that are for `test`; the name of an image decides, so that several lines with
        one image stay together and a longer file keeps its split.
      report: called with the error of every line of this split that cannot be used; the line is left out.
    """
    folder = Path(path).parent
    for number, line in _lines(path):
        try:
            values = _parse(line)
            if _split(values["image"], test_fraction) == split:
                yield _example(values, number, folder)
        except _FieldError as error:
            # A line that is not even JSON belongs to no split; it is reported once, with train.
            if split == "train" or error.parsed:
                report(LineError(f"line {number}: {error}"))


def classes(path) -> list[str]:
    """The labels of the boxes of the file, sorted; lines that cannot be read have none."""
    labels = set()
    for _, line in _lines(path):
        try:
            boxes = _parse(line).get("boxes", [])
        except _FieldError:
            continue  # `examples` reports it
        if isinstance(boxes, list):
            labels |= {box["label"] for box in boxes if isinstance(box, dict) and isinstance(box.get("label"), str)}
    return sorted(labels)


def count(path) -> int:
    """The number of lines that are not empty."""
    return sum(1 for _ in _lines(path))


class _FieldError(ValueError):
    """What is wrong, without the line; `parsed` tells whether its split is known."""

    def __init__(self, message: str, parsed: bool = True):
        super().__init__(message)
        self.parsed = parsed


def _lines(path) -> Iterator[tuple[int, str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _split(image: str, test_fraction: float) -> str:
    return "test" if zlib.crc32(image.encode()) < test_fraction * 2**32 else "train"


def _parse(line: str) -> dict:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise _FieldError(f"not JSON: {error}", parsed=False) from error
    if not isinstance(values, dict) or not isinstance(values.get("image"), str):
        raise _FieldError("field image: the line has no image, a path relative to the file", parsed=False)
    return values


def _example(values: dict, number: int, folder: Path) -> records.Example:
    _refuse_unknown(values, _FIELDS, "")
    captions = _several(values, "caption", "captions")
    if not captions:
        raise _FieldError("field caption: the line has neither caption nor captions")
    example = {
        "id": str(values.get("id", number)),
        "image": _read_image(folder / values["image"]),
        "captions": captions,
        "phrases": _phrases(values, captions),
        "regions": _regions(values),
        "negatives": [],
    }
    problems = records.check(example)
    if problems:
        raise _FieldError("; ".join(problems))
    return example


def _refuse_unknown(values: dict, known: set[str], where: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise _FieldError(f"field {where}{unknown[0]}: unknown; there are {', '.join(sorted(known))}")


def _several(values: dict, one: str, many: str) -> list:
    """The values of a field that may be given once or as a list."""
    if one in values and many in values:
        raise _FieldError(f"field {many}: give {one} or {many}, not both")
    found = values.get(many, [values[one]] if one in values else [])
    if not isinstance(found, list):
        raise _FieldError(f"field {many}: it must be a list, not {found!r}")
    for value in found:
        if not isinstance(value, str) and not (value is None and many == "trees"):
            raise _FieldError(f"field {many if many in values else one}: it must be text, not {value!r}")
    return found


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _FieldError(f"field image: {path} cannot be read: {error.strerror}") from error


def _phrases(values: dict, captions: list[str]) -> list[dict]:
    found = _several(values, "tree", "trees")
    if found and len(found) != len(captions):
        raise _FieldError(f"field trees: {len(found)} trees for {len(captions)} captions; null stands for none")
    phrases = []
    for caption, tree in enumerate(found):
        try:
            spans = trees.spans_from_penn(tree, captions[caption]) if tree else []
        except trees.TreeError as error:
            raise _FieldError(f"field {'trees' if 'trees' in values else 'tree'}: {error}") from error
        phrases += [{"caption": caption, "start": start, "end": end, "label": label} for start, end, label in spans]
    return phrases


def _regions(values: dict) -> list[dict]:
    boxes = values.get("boxes", [])
    if not isinstance(boxes, list):
        raise _FieldError(f"field boxes: it must be a list, not {boxes!r}")
    return [_region(box, f"boxes[{index}]") for index, box in enumerate(boxes)]


def _region(values, where: str) -> dict:
    if not isinstance(values, dict):
        raise _FieldError(f'field {where}: it must be like {{"box": [y0, x0, y1, x1]}}, not {values!r}')
    _refuse_unknown(values, _BOX_FIELDS, f"{where}.")
    box = values.get("box")
    if not _are_numbers(box, (int, float), 4):
        raise _FieldError(f"field {where}.box: it must be [y0, x0, y1, x1], not {box!r}")
    region = {
        "box": box,
        "caption": -1,
        "start": -1,
        "end": -1,
        "text": values.get("text", ""),
        "label": values.get("label", ""),
    }
    for name in ("text", "label"):
        if not isinstance(region[name], str):
            raise _FieldError(f"field {where}.{name}: it must be text, not {region[name]!r}")
    if "span" in values:
        span, caption = values["span"], values.get("caption", 0)
        if not _are_numbers(span, int, 2) or not isinstance(caption, int):
            raise _FieldError(f"field {where}.span: it must be [start, end] of a caption number, not {span!r}")
        region |= {"caption": caption, "start": span[0], "end": span[1]}
    return region


def _are_numbers(value, kind, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    )
