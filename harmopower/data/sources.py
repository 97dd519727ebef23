"""The data sets of a run: `config.data.sources` says which, how often each one's turn comes, and what differs in it.

    data/coco weight=3 min_crop_area=0.9, data/cc12m weight=7

is a text, so that a flag can give it: data sets separated by commas, each the folder and then `key=value`s. `weight` (1
by default) counts against the sum of all; `split`, `annotations`, `regions`, `resize_mode` and `min_crop_area` stand in
for the keys of `config.data` of the same names; overlays of `annotations` are separated by + here, as in spacy+boxes.
"""

import dataclasses
from fractions import Fraction

import grain

from harmopower.data import reading, records
from harmopower.data.annotations import overlays
from harmopower.errors import UserError

_TYPES = {"weight": Fraction, "split": str, "regions": str, "resize_mode": str, "min_crop_area": float}
_TYPES |= {"annotations": lambda names: names.replace("+", ",")}
_EXAMPLE = "write it as 'data/coco weight=3, data/cc12m weight=7 split=train'"


class SourcesError(UserError, ValueError):
    """`config.data.sources` cannot be read; the text says what is wrong with which of its data sets."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One data set of a mixture: its examples, its weight, and the fields of `rows.Options` that differ in it."""

    source: grain.sources.RandomAccessDataSource
    weight: Fraction = Fraction(1)
    options: dict = dataclasses.field(default_factory=dict)


def parse(text: str) -> list[tuple[str, dict]]:
    """The folder and the settings of each data set that `config.data.sources` names.

    Raises:
      SourcesError: an unknown key, a value that is none, a weight that is not above 0, or a folder without a name.
    """
    return [_parse(entry.split()) for entry in text.split(",")]


def _parse(words: list[str]) -> tuple[str, dict]:
    if not words or "=" in words[0]:
        raise SourcesError(f"config.data.sources has a data set without a folder ({' '.join(words)!r}); {_EXAMPLE}")
    folder, settings = words[0], {}
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key not in _TYPES or not value:
            raise SourcesError(f"config.data.sources: {folder} has {word!r}; keys are {', '.join(_TYPES)}; {_EXAMPLE}")
        try:
            settings[key] = _TYPES[key](value)
        except (ValueError, ZeroDivisionError) as error:
            raise SourcesError(f"config.data.sources: {folder} has {word!r}, which is no number") from error
    if settings.get("weight", 1) <= 0:
        raise SourcesError(f"config.data.sources: {folder} has weight {settings['weight']}; it must be above 0")
    return folder, settings


def folders(data) -> list[str]:
    """The folders that `config.data` names for training; the tokenizer lies beside the first one."""
    return [folder for folder, _ in parse(data.sources)] if data.get("sources") else [data.source]


def padded(data) -> bool:
    """Whether the images of one of the data sets are letterboxed."""
    mode = data.get("resize_mode")
    return any(own.get("resize_mode", mode) == "letterbox" for _, own in _entries(data))


def fingerprint(data):
    """`overlays.fingerprint` of what `config.data` names for training; a list of them for `sources`."""
    found = [
        overlays.fingerprint(folder, own.get("split", data.split), own.get("annotations", _annotations(data)))
        for folder, own in _entries(data)
    ]
    return found if data.get("sources") else found[0]


def _entries(data) -> list[tuple[str, dict]]:
    return parse(data.sources) if data.get("sources") else [(data.get("source", ""), {})]


def _annotations(data) -> str:
    return data.get("annotations", "")


def open_all(data) -> list[Part]:
    """Opens what `config.data` names: `source`, or in its place the data sets of `sources`.

    Raises:
      SourcesError, DataSourceError, AnnotationError: it cannot be read, or is not there.
    """
    entries = _entries(data)
    open_files = max(1, data.get("open_files", reading.OPEN_FILES) // len(entries))
    return [_open(data, folder, dict(settings), open_files) for folder, settings in entries]


def _open(data, folder: str, settings: dict, open_files: int) -> Part:
    _refuse_crops(folder, {**data, **settings})
    split, weight = settings.pop("split", data.split), settings.pop("weight", Fraction(1))
    names = settings.pop("annotations", _annotations(data))
    return Part(overlays.read(folder, split, names, records.read(folder, split, open_files)), weight, settings)


def _refuse_crops(folder: str, data: dict) -> None:
    grid = records.metadata(folder).get("fixed_grid")
    if grid and data.get("min_crop_area", 1) < 1 and data.get("regions") != "random":
        raise SourcesError(
            f"config.data.min_crop_area is {data['min_crop_area']}, but the regions of {folder} were made on a fixed "
            f"grid of {' x '.join(map(str, grid))} patches over the whole image; set config.data.min_crop_area to 1.0, "
            "or config.data.regions to random"
        )
