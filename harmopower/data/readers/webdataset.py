"""Tars of images and captions in the layout of WebDataset: those of img2dataset, with or without its parquet files.

    00012.tar:         000120007.jpg  000120007.txt  000120007.json  ...
    00012_stats.json:  {"count": 10000, "successes": 6213, "status_dict": {"success": 6213, "HTTP Error 404": ...}}

`--caption` says where captions are: an ending (`txt`), or a field of the JSON (`json.alt`, deeper: `json.a.b`). Of
several, `txt:0.7,json.alt:0.3`, one is drawn for each sample by the weights, among those that it has; the draw depends
on `--seed` and the id alone. The parquet files beside the tars repeat the JSONs and are not needed.
"""

import argparse
import math
import random

from harmopower.data.readers import crawls, protocol, tars
from harmopower.data.readers.protocol import BadSample

_SYNTAX = "like txt, or txt:0.7,json.alt:0.3"


class Reader(crawls.Reader):
    """Tars of images and captions, as img2dataset makes them."""

    example = (
        "python -m tools.prepare webdataset --input cc12m --caption txt:0.7,json.alt:0.3 --shortest-side 256 "
        "--tokenizer clip --workers 16 --output data/cc12m"
    )

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._sources = parse_sources(options.caption)

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        super().add_options(parser)
        parser.add_argument(
            "--caption", default="txt", metavar="KEYS", help=f"where captions are, {_SYNTAX} (default %(default)s)"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the draw among captions (default %(default)s)")

    def found(self, sample: tars.Sample, unit: protocol.Unit) -> protocol.Found:
        """An image and one caption."""
        facts = sample.facts() if "json" in sample.members else {}
        caption = self._caption(sample, facts)
        image, _, notes = self.placed(sample, unit, facts)
        example = {"id": self.id(sample), "image": image, "captions": [caption]}
        return protocol.Found(example, unit.split, crawls.aliases(facts), sample.where, tuple(notes))

    def _caption(self, sample: tars.Sample, facts: dict) -> str:
        there = {source: text for source in self._sources if (text := _read(sample, facts, source)) is not None}
        if not there:
            names = [*sample.members, *(f"json.{name}" for name in facts)]
            wanted = ", ".join(self._sources)
            raise BadSample("missing_key", f"{sample.where} has none of the captions {wanted} (--caption)", names)
        filled = {source: self._sources[source] for source, text in there.items() if text}
        if not filled:
            raise BadSample("empty_caption", f"{sample.where}: {', '.join(there)} is empty")
        return there[draw(filled, self.options.seed, self.id(sample))]


def parse_sources(text: str) -> dict[str, float]:
    """The sources of captions and their weights.

    Raises:
      ReaderError: the text is not as it must be.
    """
    sources = {}
    for part in text.split(","):
        name, colon, weight = part.strip().partition(":")
        try:
            sources[name] = float(weight) if colon else 1.0
        except ValueError:
            sources[name] = math.nan
        if not name or not 0 < sources[name] < math.inf:
            raise protocol.ReaderError(
                f"--caption {text}: {part!r} is no key with a weight above 0; it must be {_SYNTAX}"
            )
    return sources


def draw(weights: dict[str, float], seed: int, name: str) -> str:
    """One of the keys by their weights; a function of the seed and the name."""
    return random.Random(f"{seed} {name}").choices(list(weights), list(weights.values()))[0]


def _read(sample: tars.Sample, facts: dict, source: str) -> str | None:
    """The text of a source without white space around it; None where the sample has no such key."""
    kind, _, path = source.partition(".")
    if kind != "json" or source in sample.members:
        return sample.text(source).strip() if source in sample.members else None
    value = facts
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if not isinstance(value, str | None):  # a crawler writes null for a caption that it had not
        raise BadSample("bad_field", f"{sample.where}: {source} is no text but {type(value).__name__}")
    return (value or "").strip()
