"""The released data of PowerCLIP: tars with a picture, its caption, the phrases of its parse and the regions of SAM.

    000000012.{jpg, txt, json}
    000000012.njson         {"...": [2, 5, ...], "...": [1, 2, 1, 2, 3, 4, 5, ...]}    tokens of each phrase, one by one
    000000012.samlens.npy   [6, 4, ...]               how many patches the box of each region has
    000000012.samcat.npy    [15, 16, 17, 29, ...]     those patches, row * 14 + column, at 224 pixels and patches of 16

Positions are those in CLIP's sequence of 77 tokens. The names of the lists in `njson`, and whether the start token
counts as a position, are documented nowhere. So both are found over the first samples of a tar: lengths are the list
whose sum is the length of the other one, and the start token counts if so the phrases lie within their captions (and
where both fit, if so more of them end where words do). A tar that fits neither is refused. Phrases become characters
of the caption.

The patches belong to a fixed grid over the whole picture, also where it is not square (our reading). So the pictures
may not be cropped: the data set says so in its metadata, and training refuses `data.min_crop_area` below 1 with it.
"""

import argparse
from collections.abc import Iterator
import contextlib
import functools
import io
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harmopower.data import tokenize
from harmopower.data.readers import annotation_files, crawls, protocol, tars
from harmopower.data.readers.protocol import BadSample

GRID = 14
_CONTEXT = 77
_HEAD = 256  # samples of a tar that decide (our choice)
_ENOUGH = 0.9  # share of them that must fit (our choice): some captions were cleaned otherwise
_OFFSETS = (0, 1)  # added to a stored position: the start token counts there, or it does not
_SAM = ("samlens", "samcat")

Parts = list[list[int]]


class Layout(NamedTuple):
    """How a tar is to be read: the names of lengths and members in `njson` and in the arrays, and the offset."""

    phrases: tuple[str, str]
    regions: tuple[str, str]
    offset: int


class Reader(tars.Reader):
    """The released PowerCLIP tars: phrases by tokens, SAM's regions by patches."""

    example = "python -m tools.prepare powerclip --input powerclip --tokenizer clip --output data/powerclip"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._tokenizer = tokenize.Tokenizer.load("clip", "")

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The samples of a tar.

        Raises:
          ReaderError: its lists cannot be understood.
        """
        found = tars.samples(unit.path)
        first = list(itertools.islice(found, _HEAD))
        layout = self._layout(first, Path(unit.path))
        for sample in itertools.chain(first, found):
            if isinstance(sample, tars.LeftOut):
                yield sample
            else:
                yield protocol.attempt(self.id(sample), self._found, sample, unit.split, layout)

    def metadata(self, labels: list[str]) -> dict:
        """Says that the regions lie on a fixed grid."""
        return {**super().metadata(labels), "fixed_grid": [GRID, GRID]}

    def _layout(self, first: list, path: Path) -> Layout:
        phrases, regions = [], []
        for sample in first:
            with contextlib.suppress(BadSample):  # it is reported when it is read
                if isinstance(sample, tars.Sample):
                    regions.append(_arrays(sample))
                    phrases.append((sample.text("txt"), _lists(sample)))
        if not phrases:
            return Layout(("", ""), _SAM, 0)  # nothing can be used, which each sample says for itself
        names = _names([lists for _, lists in phrases], f"{path.name}: the njson of its samples")
        return Layout(
            names,
            _names(regions, f"{path.name}: samlens.npy and samcat.npy of its samples"),
            self._offset([(text, _split(lists, names)) for text, lists in phrases], path),
        )

    def _offset(self, found: list[tuple[str, Parts | None]], path: Path) -> int:
        places = [(text, _places(self._tokenizer, text), parts) for text, parts in found if parts]
        count = sum(len(parts) for _, _, parts in places)
        within = {o: sum(_within(p, o, at) for _, at, parts in places for p in parts) for o in _OFFSETS}
        fitting = [o for o in _OFFSETS if within[o] >= _ENOUGH * count]
        if not fitting:
            shares = " and ".join(f"{within[o] / count:.0%}" for o in _OFFSETS)
            raise protocol.ReaderError(
                f"{path.name}: its phrases cannot be understood: if the start token counts as a position or not, "
                f"{shares} of {count} phrases lie within the tokens of their captions, and {_ENOUGH:.0%} must; are "
                "these the released PowerCLIP tars, made with CLIP's tokenizer?"
            )
        aligned = {o: sum(_aligned(p, o, at, t) for t, at, parts in places for p in parts) for o in fitting}
        best = [o for o in fitting if (within[o], aligned[o]) == max((within[o], aligned[o]) for o in fitting)]
        return best[0] if len(best) == 1 or not count else self._of_first(path)

    def _of_first(self, path: Path) -> int:
        """Of a tar that does not tell, such as a small last one, the first one decides."""
        if path == self.tars[0][1]:
            raise protocol.ReaderError(
                f"{path.name}: nothing in its first {_HEAD} samples tells whether phrases count the start token"
            )
        return self._first_offset

    @functools.cached_property
    def _first_offset(self) -> int:
        path = self.tars[0][1]
        return self._layout(list(itertools.islice(tars.samples(path), _HEAD)), path).offset

    def _found(self, sample: tars.Sample, split: str, layout: Layout) -> protocol.Found:
        image, text = sample.image(), sample.text("txt")
        if not text.strip():
            raise BadSample("empty_caption", f"{sample.where}.txt is empty")
        spans, patches = _split(_lists(sample), layout.phrases), _split(_arrays(sample), layout.regions)
        if spans is None or patches is None:
            what = f"njson {layout.phrases}" if spans is None else f"arrays {layout.regions}"
            raise BadSample("bad_field", f"{sample.where}: lengths do not sum up to the length of the list: {what}")
        notes: list[tuple[str, str]] = []
        at = _places(self._tokenizer, text)
        example = {
            "id": self.id(sample),
            "image": image,
            "captions": [text],
            "phrases": list(_phrases(spans, layout.offset, at, notes)),
            "regions": list(_regions(patches, notes)),
        }
        aliases = crawls.aliases(sample.facts()) if "json" in sample.members else ()
        return protocol.Found(example, split, aliases, sample.where, tuple(notes))


def _lists(sample: tars.Sample) -> dict[str, list[int]]:
    """The lists of whole numbers in `njson`, by their names (or places)."""
    value = sample.json("njson")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {str(name): numbers for name, numbers in items if _are_whole(numbers)}


def _are_whole(numbers) -> bool:
    return isinstance(numbers, list) and all(type(number) is int for number in numbers)


def _arrays(sample: tars.Sample) -> dict[str, list[int]]:
    return {name: _array(sample, f"{name}.npy") for name in _SAM}


def _array(sample: tars.Sample, ending: str) -> list[int]:
    try:
        found = np.lib.format.read_array(io.BytesIO(sample.get(ending)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadSample("unreadable", f"{sample.where}.{ending} is no array of NumPy: {error}") from error
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        kind = f"{found.dtype} {found.shape}"
        raise BadSample("bad_field", f"{sample.where}.{ending} is no list of whole numbers: {kind}")
    return found.astype(np.int64).tolist()


def _names(found: list[dict[str, list[int]]], what: str) -> tuple[str, str]:
    """Which list holds lengths and which the members.

    Raises:
      ReaderError: in too few samples any two lists fit, or two orders fit equally.
    """
    names = list(dict.fromkeys(name for lists in found for name in lists))
    fits = {pair: sum(_split(lists, pair) is not None for lists in found) for pair in itertools.permutations(names, 2)}
    best = max(fits.values(), default=0)
    pairs = [pair for pair, count in fits.items() if count == best]
    pairs = [pair for pair in pairs if "len" in pair[0].lower()] or pairs
    if len(pairs) == 1 and best >= _ENOUGH * len(found):
        return pairs[0]
    raise protocol.ReaderError(
        f"{what} cannot be understood: one list must hold lengths that sum up to the length of another; the lists are "
        f"{', '.join(names) or 'none'}, and {len(pairs)} orders fit in {best} of {len(found)} samples"
    )


def _split(lists: dict[str, list[int]], names: tuple[str, str]) -> Parts | None:
    """The members, cut by the lengths; None where they do not fit."""
    lengths, members = (lists.get(name) for name in names)
    if lengths is None or members is None or sum(lengths) != len(members) or any(length < 0 for length in lengths):
        return None
    ends = list(itertools.accumulate(lengths))
    return [members[end - length : end] for length, end in zip(lengths, ends)]


def _places(tokenizer: tokenize.Tokenizer, text: str) -> list[tuple[int, int]]:
    """Characters of each token between start and end, as far as 77 tokens reach; that of position 1 comes first."""
    ids, offsets = tokenizer.encode(text, _CONTEXT)
    return [(start, end) for start, end in offsets[1 : int(ids.argmax())].tolist()]


def _within(positions: list[int], offset: int, places: list) -> bool:
    return all(1 <= position + offset <= len(places) for position in positions)


def _span(positions: list[int], offset: int, places: list) -> tuple[int, int]:
    return places[min(positions) + offset - 1][0], places[max(positions) + offset - 1][1]


def _aligned(positions: list[int], offset: int, places: list, text: str) -> bool:
    """Whether a phrase begins and ends where words do."""
    if not positions or not _within(positions, offset, places):
        return False
    start, end = _span(positions, offset, places)
    return _is_edge(text, start) and _is_edge(text, end)


def _is_edge(text: str, place: int) -> bool:
    return place in (0, len(text)) or not text[place - 1 : place + 1].isalnum()


def _phrases(parts: Parts, offset: int, places: list, notes: list) -> Iterator[dict]:
    for positions in filter(None, parts):
        if not _within(positions, offset, places):
            notes.append(("phrase_outside", f"phrase {positions} leaves the {len(places)} tokens of the caption"))
            continue
        if len({*positions}) <= max(positions) - min(positions):
            notes.append(("phrase_with_gaps", f"phrase {positions} leaves out tokens, its span does not"))
        start, end = _span(positions, offset, places)
        if start == end:
            notes.append(("phrase_empty", f"phrase {positions} has tokens that stand for no character"))
            continue
        yield {"caption": 0, "start": start, "end": end, "label": ""}


def _regions(parts: Parts, notes: list) -> Iterator[dict]:
    for patches in filter(None, parts):
        if min(patches) < 0 or max(patches) >= GRID * GRID:
            notes.append(("bad_box", f"patches {min(patches)} to {max(patches)} leave the grid of {GRID} x {GRID}"))
            continue
        rows, columns = zip(*(divmod(patch, GRID) for patch in patches))
        y0, x0, y1, x1 = min(rows), min(columns), max(rows) + 1, max(columns) + 1
        if len({*patches}) != (y1 - y0) * (x1 - x0):
            notes.append(("region_no_box", f"{len({*patches})} patches do not fill their box of {y1 - y0} x {x1 - x0}"))
        yield annotation_files.region([y0 / GRID, x0 / GRID, y1 / GRID, x1 / GRID])
