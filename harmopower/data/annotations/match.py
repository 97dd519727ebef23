"""Regions that have labels, linked to the words of the captions that name them.

    python -m tools.annotate match --data data/coco --name match
    python -m tools.annotate match --data data/photos --annotations detected --name match --synonyms words.json

A label is found as whole words, in the plural too, whatever the case; the first place counts. `--synonyms` is a JSON
file of other names, `{"couch": ["sofa", "settee"]}`. As in `readers/coco.py`, a region stays as it is and gets one more
entry for every caption that names it (`records.regions_of` shows each box once); spans that are there already stay.
"""

import argparse
import collections
from collections.abc import Iterable, Iterator, Mapping
import functools
import json
from pathlib import Path

from harmopower.data import matching
from harmopower.data.annotations import protocol
from harmopower.data.annotations.overlays import AnnotationError


class Annotator(protocol.Annotator):
    """Labels of regions found in the captions: their spans."""

    example = "python -m tools.annotate match --data data/coco --name match --synonyms words.json"
    makes = ("regions",)

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this kind."""
        parser.add_argument(
            "--synonyms", default="", metavar="FILE", help='other names of labels, JSON: {"couch": ["sofa", "settee"]}'
        )

    @functools.cached_property
    def _synonyms(self) -> dict[str, tuple[str, ...]]:
        return _read(self.options.synonyms) if self.options.synonyms else {}

    def check(self) -> None:
        """Reads the synonyms."""
        self._synonyms  # noqa: B018

    def inputs(self) -> list[str]:
        """The file of synonyms."""
        return [self.options.synonyms] if self.options.synonyms else []

    def annotate(self, part: protocol.Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        """Yields all regions of each example, those of one box and label beside each other."""
        del part
        for example in examples:
            yield {"regions": self._linked(example)}

    def _linked(self, example: dict) -> list[dict]:
        regions = collections.defaultdict(list)  # all entries of a box and label
        for region in example["regions"]:
            regions[_key(region)].append(region)
        for entries in regions.values():
            if entries[0]["label"].strip():
                entries += _spans(entries, example["captions"], self._synonyms)
                self.counts["labelled"] += 1
                self.counts["named"] += any(entry["caption"] >= 0 for entry in entries)
        return [entry for entries in regions.values() for entry in entries]

    @classmethod
    def summary(cls, counts: Mapping[str, int]) -> list[str]:
        """How many regions have a span."""
        labelled, named = counts.get("labelled", 0), counts.get("named", 0)
        share = f" ({named / labelled:.1%})" if labelled else ""
        return [f"{labelled} regions with a label, {named} of them named by a caption{share}"]


def _key(region: dict) -> tuple:
    return (*map(float, region["box"]), region["label"].strip().lower())


def _spans(entries: list[dict], captions: list[str], synonyms: dict) -> list[dict]:
    label, there = entries[0]["label"].strip(), {entry["caption"] for entry in entries}
    names, found = (label, *synonyms.get(label.lower(), ())), []
    for number, caption in enumerate(captions):
        span = None if number in there else matching.find(names, caption)
        if span:
            found.append(entries[0] | {"caption": number, "start": span[0], "end": span[1]})
    return found


def _read(path: str) -> dict[str, tuple[str, ...]]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return {label.lower(): _names(names) for label, names in values.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise AnnotationError(
            f'--synonyms {path} is no JSON of labels and lists of names, such as {{"couch": ["sofa"]}}: {error}'
        ) from error


def _names(names) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{names!r} is no list of names")
    return tuple(names)
