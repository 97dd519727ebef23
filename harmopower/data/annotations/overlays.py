"""Overlays: phrases and regions that lie beside the records of a data set and are laid over them when they are read.

    DATA/annotations/NAME/info.json            written last: an overlay is complete or not there
    DATA/annotations/NAME/SPLIT.array_record   a line of JSON for each record of that split, in its order

A line has the record's id, a checksum of its captions (spans count their characters), and one or both of the lists
`phrases` and `regions`, each a list of the values of FIELDS. `info.json` says for each list whether it is added to the
record's own or replaces it. So the images of a data set are written once, and what is known of them is a choice:
`config.data.annotations=spacy,grounding` lays both over it, the second over the first.
"""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import json
from pathlib import Path
from typing import NamedTuple
import zlib

import numpy as np

from harmopower.data import files, reading, records
from harmopower.errors import UserError

FOLDER, INFO = "annotations", "info.json"
MODES = ("replace", "add")
# `score`, of a detector, is no part of a record; it stands last and may be left out.
FIELDS = {
    "phrases": ("caption", "start", "end", "label"),
    "regions": ("box", "caption", "start", "end", "text", "label", "score"),
}


class _Lines(NamedTuple):
    """Some of the lines of a file, as `reading.RecordFiles` wants to know them."""

    filename: Path
    skip: int
    stop: int

    @property
    def take(self) -> int:
        return self.stop - self.skip


class AnnotationError(UserError, ValueError):
    """An overlay that is not there, or belongs to other records; the text gives both values."""


def folder(directory, name: str) -> Path:
    """Where an overlay of a data set lies."""
    return records.find_directory(directory) / FOLDER / name


def line_file(split: str) -> str:
    """The name of the file that has the lines of a split."""
    return f"{split}.array_record"


def parse_names(names: str) -> list[str]:
    """The overlays that `config.data.annotations` names, in the order in which they are laid."""
    return [name.strip() for name in names.split(",") if name.strip()]


def read(directory, split: str, names: str = "", source: records.Source | None = None):
    """A split as `records.read` opens it, with overlays laid over its examples.

    Args:
      directory, split: see `records.read`.
      names: of the overlays, comma-separated; none leaves the records as they are.
      source: the split, where it is open already.

    Raises:
      AnnotationError, DataSourceError: something is not there, or belongs to other records.
    """
    source = records.read(directory, split) if source is None else source
    found = [Overlay(directory, name, split) for name in parse_names(names)]
    if not found:
        return source
    overlaid = Overlaid(source, found)
    for index in {0, len(source) - 1}:  # what does not belong together shows now, not after an hour
        overlaid[index]
    return overlaid


def fingerprint(directory, split: str, names: str = "") -> dict:
    """`records.fingerprint`, and of each overlay what tells it from another one."""
    found = records.fingerprint(directory, split)
    overlays = {name: digest(directory, name) for name in parse_names(names)}
    return found | ({"annotations": overlays} if overlays else {})


def digest(directory, name: str) -> str:
    """A hash of what an overlay lays over the records, and how."""
    info = read_info(directory, name)
    hashes = {split: part["sha256"] for split, part in info["splits"].items()}
    return hashlib.sha256(json.dumps([info["modes"], hashes], sort_keys=True).encode()).hexdigest()[:16]


def read_info(directory, name: str) -> dict:
    """What `info.json` of an overlay says.

    Raises:
      AnnotationError: there is no such overlay; the text names those that there are.
    """
    info = files.read_json(folder(directory, name) / INFO)
    if info is None:
        there = sorted(path.parent.name for path in folder(directory, name).parent.glob(f"*/{INFO}"))
        raise AnnotationError(
            f"{directory} has no annotations {name!r}, or they are not complete; there are: "
            f"{', '.join(there) or 'none'}; make them with python -m tools.annotate"
        )
    return info


class Overlaid:
    """Random access to examples with overlays laid over them, as `records.Source`; picklable."""

    def __init__(self, source, overlays: Sequence["Overlay"]):
        self._source, self._overlays = source, tuple(overlays)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index) -> records.Example:
        """One example.

        Raises:
          DataSourceError: it cannot be read.
          AnnotationError: an overlay is of another record there.
        """
        example = self._source[index]
        for overlay in self._overlays:
            example = overlay.lay(example, int(index))
        return example

    def __iter__(self) -> Iterator[records.Example]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Overlaid({self._source!r}, {self._overlays!r})"


class Overlay:
    """One overlay of a split, or of a slice of one."""

    def __init__(self, directory, name: str, split: str):
        """Opens nothing yet.

        Raises:
          AnnotationError: it is not there, or has another number of records than the split.
        """
        info, sizes = read_info(directory, name), records.splits(directory)
        self._where, self._modes = f"annotations {name!r} of {directory}", info["modes"]
        parts = records.ranges(directory, split)
        for base, _, stop in parts:
            self._refuse_count(info, base, stop, sizes[base])
        place = folder(directory, name)
        self._lines = reading.RecordFiles([_Lines(place / line_file(base), *span) for base, *span in parts])

    def _refuse_count(self, info: dict, split: str, stop: int, examples: int) -> None:
        if split not in info["splits"]:
            raise AnnotationError(f"{self._where} are of the splits {', '.join(info['splits'])}, not of {split!r}")
        annotated, limit = info["splits"][split]["examples"], info["limit"]
        if annotated != examples and not (limit and stop <= annotated):
            limited = f" (made with --limit {limit})" if limit else ""
            raise AnnotationError(
                f"{self._where} are of {annotated} records{limited}, but the split {split} has {examples}; make them "
                "again with python -m tools.annotate, or set config.data.annotations to others"
            )

    def lay(self, example: records.Example, index: int) -> records.Example:
        """The example with what the overlay has for it.

        Raises:
          AnnotationError: it is of another record, or of other captions.
        """
        row = json.loads(self._line(index))
        self._refuse_other(row, example, index)
        changed = dict(example)
        for name, mode in self._modes.items():
            found = [dict(zip(FIELDS[name], values, strict=False)) for values in row[name]]
            for part in found if name == "regions" else ():
                part["box"] = np.array(part["box"], np.float32)
            changed[name] = found if mode == "replace" else [*example[name], *found]
        return changed

    def _line(self, index: int) -> bytes:
        try:
            return self._lines[index]
        except (OSError, RuntimeError) as error:
            raise AnnotationError(f"{self._where} cannot be read at record {index}: {error}") from error

    def _refuse_other(self, row: dict, example: records.Example, index: int) -> None:
        same_id = row["id"] == example["id"]
        if same_id and row["captions"] == checksum(example["captions"]):
            return
        what = f"captions that have changed since (of {row['id']!r})" if same_id else f"id {row['id']!r}"
        raise AnnotationError(
            f"{self._where} have {what} at record {index}, where the data have {example['id']!r}; make them again with "
            "python -m tools.annotate"
        )

    def __repr__(self) -> str:
        return self._where


def checksum(captions: Sequence[str]) -> int:
    """What changes when a caption has changed."""
    return zlib.crc32("\0".join(captions).encode())


def encode(example_id: str, captions: int, lists: Mapping[str, Sequence[dict]]) -> bytes:
    """The stored line of a record; boxes keep every bit of their float32."""
    row = {"id": example_id, "captions": captions}
    for name, parts in lists.items():
        row[name] = [[_plain(part[field]) for field in FIELDS[name] if field in part] for part in parts]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value):
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        return [float(str(number)) for number in np.asarray(value, np.float32)]  # the shortest that reads back the same
    return int(value) if isinstance(value, (int, np.integer)) else round(float(value), 4)
