"""GRIT: crawled pictures whose captions' words name boxes, the public set that is nearest to our records.

    000120007.{jpg, txt}   000120007.json:
    {"caption": "a wire hanger with a paper cover that reads we heart our customers", "width": 1024, "height": 693,
     "noun_chunks": [[19, 32, 0.0196, 0.3105, 0.9622, 0.9603, 0.7930]],       # first, last-plus-one character of the
     "ref_exps":    [[19, 66, 0.0196, 0.3105, 0.9622, 0.9603, 0.7930]], ...}  # caption, x0, y0, x1, y1, score of GLIP

`noun_chunks` are words, `ref_exps` the same with what depends on them; both are kept, and what says the same counts
once. Boxes are shares of the picture as it was fetched: they move where img2dataset has padded or cropped it. The boxes
are GLIP's and noisy, so `--min-score` is worth a try; a crawl gets 50 to 60 % of the URLs today.

Format: microsoft/unilm, `kosmos-2/README.md`.
"""

import argparse
from collections.abc import Iterator
import json

from harmopower.data.readers import annotation_files, boxes, crawls, protocol, tars
from harmopower.data.readers.protocol import BadSample

_KINDS = ("noun_chunks", "ref_exps")
_LEAST_VISIBLE = 0.25  # of a box that img2dataset has cropped, as in training (`transforms.MIN_VISIBLE`)


class Reader(crawls.Reader):
    """GRIT's tars: captions whose noun chunks and referring expressions name boxes."""

    example = "python -m tools.prepare grit --input grit --min-score 0.5 --tokenizer clip --output data/grit"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        if not 0 <= options.min_score <= 1:
            raise protocol.ReaderError(f"--min-score is {options.min_score}; it must be between 0 and 1")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        super().add_options(parser)
        parser.add_argument(
            "--min-score", type=float, default=0.0, help="of the detector, 0 to 1, for a box (default %(default)s)"
        )

    def found(self, sample: tars.Sample, unit: protocol.Unit) -> protocol.Found:
        """A picture, its caption and the regions that its words name."""
        facts = sample.facts()
        caption = _caption(sample, facts)
        image, lies, notes = self.placed(sample, unit, facts)
        regions = list(self._regions(sample, facts, lies, notes))
        # Of a region that is named by a chunk and by an expression alike, one is kept.
        unique = {(region["start"], region["end"], *region["box"]): region for region in regions}
        example = {"id": self.id(sample), "image": image, "captions": [caption], "regions": list(unique.values())}
        return protocol.Found(example, unit.split, crawls.aliases(facts), sample.where, tuple(notes))

    def _regions(self, sample: tars.Sample, facts: dict, lies: crawls.Box, notes: list) -> Iterator[dict]:
        for kind in _KINDS:
            for entry in _entries(sample, facts, kind):
                start, end, *box, score = _numbers(entry, f"{sample.where}: {kind}")
                if score < self.options.min_score:
                    notes.append(("low_score", ""))
                    continue
                if region := _region((int(start), int(end)), box, lies):
                    yield region
                else:
                    notes.append(("box_cropped", f"{kind} {entry} lies outside what img2dataset has kept"))


def _caption(sample: tars.Sample, facts: dict) -> str:
    """As it is, white space too: spans count its characters."""
    caption = facts["caption"] if "caption" in facts else sample.text("txt")
    if not isinstance(caption, str) or not caption.strip():
        raise BadSample("empty_caption", f"{sample.where} has the caption {caption!r}")
    return caption


def _entries(sample: tars.Sample, facts: dict, kind: str) -> list:
    if kind not in facts:
        raise BadSample("missing_key", f"{sample.where}.json has no {kind}", [f"json.{name}" for name in facts])
    entries = facts[kind]
    if isinstance(entries, str):  # as tools write nested lists that pass through a CSV
        try:
            entries = json.loads(entries)
        except ValueError as error:
            raise BadSample("bad_field", f"{sample.where}: {kind} is text but not JSON: {error}") from error
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise BadSample("bad_field", f"{sample.where}: {kind} is no list but {type(entries).__name__}")
    return entries


def _numbers(entry, where: str) -> list[float]:
    is_right = isinstance(entry, list) and len(entry) == 7 and all(type(value) in (int, float) for value in entry)
    if not is_right or not all(float(value).is_integer() for value in entry[:2]):
        raise BadSample("bad_box", f"{where} must be [start, end, x0, y0, x1, y1, score], not {entry!r}")
    return entry


def _region(span: tuple[int, int], box: list[float], lies: crawls.Box) -> dict | None:
    """A region where it lies in the file; None where too little of it does."""
    # What the detector lets out of the picture is clipped first: only what the crawler cut away counts as lost.
    whole = crawls.moved(annotation_files.clip(boxes.normalise(box, "xyxy")), lies)
    seen = annotation_files.clip(whole)
    if _area(seen) < _LEAST_VISIBLE * _area(whole):
        return None
    return annotation_files.region(seen, (0, *span))


def _area(box: list[float]) -> float:
    y0, x0, y1, x1 = box
    return (y1 - y0) * (x1 - x0)
