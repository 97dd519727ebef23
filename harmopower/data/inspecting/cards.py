"""Examples as cards: what a page shows of each, worked out to the last colour; nothing here knows HTML."""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import re

import numpy as np

from harmopower.data import images, inspecting, records
from harmopower.data.inspecting import nesting
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import RecordError

_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True)
class Box:
    """A region: its corner and sides in shares of the image, what it is called, and the words that it belongs to.

    Boxes and words of the same `key` light up together; `colour` is a number, the same for the same key.
    """

    x: float
    y: float
    width: float
    height: float
    name: str
    key: str
    colour: int
    named: bool

    @property
    def area(self) -> float:
        """Larger ones are drawn first, so that the mouse reaches those within."""
        return self.width * self.height


@dataclasses.dataclass(frozen=True)
class Piece:
    """A word or token: `keys` of the spans that it lies in, the innermost first; `cut`: training does not see it."""

    text: str
    keys: tuple[str, ...] = ()
    colour: int = -1
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """A span over so many pieces, or without a key the gap between two spans."""

    pieces: int
    label: str = ""
    key: str = ""
    colour: int = -1


@dataclasses.dataclass(frozen=True)
class Text:
    """A caption: its pieces, the spans over them row by row (the tree, its root on top), and remarks."""

    pieces: list[Piece]
    rows: list[list[Cell]]
    note: str


@dataclasses.dataclass
class Card:
    """An example on the page; `kinds` are what the page can filter by."""

    name: str
    image: np.ndarray | None
    boxes: list[Box]
    texts: list[Text]
    problems: list[str]
    kinds: set[str]


class Colours:
    """Keys of spans, and numbers for the keys that get a colour, in the order in which they are first asked for."""

    def __init__(self):
        self._keys: dict[tuple[int, int, int], str] = {}
        self._numbers: dict[str, int] = {}

    def key(self, caption: int, start: int, end: int) -> str:
        """What a region and the words that name it have in common; short, because a page has very many."""
        return self._keys.setdefault((caption, start, end), f"{len(self._keys):x}")

    def __call__(self, key: str) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def known(self, keys: Iterable[str]) -> int:
        """The number of the first key that has one; -1 where none has."""
        return next((self._numbers[key] for key in keys if key in self._numbers), -1)


def of_example(example: records.Example, tokenizer: Tokenizer, context_length: int) -> Card:
    """A stored example, with what is wrong with it and where the context length cuts its captions."""
    problems = [problem.text for problem in records.examine(example)]
    image = None
    try:
        image = np.asarray(images.decode(example["image"]))
    except RecordError as error:
        problems.append(str(error))
    colours = Colours()
    regions = inspecting.regions(example)
    boxes = [_box(index, region, example["captions"], colours) for index, region in enumerate(regions)]
    texts = [_text(example, number, tokenizer, context_length, colours) for number in range(len(example["captions"]))]
    kinds = {
        "cut": any(piece.cut for text in texts for piece in text.pieces),
        "no span": not all(box.named for box in boxes),
        "bad": bool(problems),
    }
    return Card(example["id"], image, boxes, texts, problems, {kind for kind, is_so in kinds.items() if is_so})


def _box(index: int, region: dict, captions: Sequence[str], colours: Colours) -> Box:
    spanned = 0 <= region["caption"] < len(captions)
    key = colours.key(region["caption"], region["start"], region["end"]) if spanned else f"region {index}"
    words = captions[region["caption"]][region["start"] : region["end"]] if spanned else ""
    parts = [f"“{words}”" if words else "", region["text"], f"[{region['label']}]" if region["label"] else ""]
    score = f"{region['score']:.3f}" if "score" in region else ""
    name = " ".join(part for part in (*parts, score) if part) or "no text"
    return make_box(region["box"], name, key, colours(key), spanned)


def make_box(box, name: str, key: str, colour: int, named: bool) -> Box:
    """A box of y0, x0, y1, x1; a wrong one is shown as far as it lies in the image."""
    y0, x0, y1, x1 = (float(value) for value in np.nan_to_num(np.asarray(box, np.float64)).clip(0, 1))
    return Box(x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0), name, key, colour, named)


def _text(example, number: int, tokenizer: Tokenizer, context_length: int, colours: Colours) -> Text:
    caption = example["captions"][number]
    labels = _labels(example, number, len(caption))
    spans = nesting.order(list(labels))
    keys = {span: colours.key(number, *span) for span in spans}
    _, offsets = tokenizer.encode(caption, context_length)
    end_of_seen = int(offsets.max())
    places = split(caption, spans, end_of_seen)
    pieces = []
    for start, end in places:
        inside = sorted((last - first, keys[first, last]) for first, last in spans if first <= start and end <= last)
        inner = tuple(key for _, key in inside)
        pieces.append(Piece(caption[start:end], inner, colours.known(inner), start >= end_of_seen))
    rows = [[] for _ in range(nesting.depth(spans))]
    for span, depth in zip(spans, nesting.depths(spans)):
        rows[depth - 1].append((span, Cell(0, labels[span], keys[span], colours.known([keys[span]]))))
    tokens = tokenizer.count(caption)
    note = f"{tokens} tokens" + (f", cut at {context_length}" if tokens > context_length else "")
    return Text(pieces, [line for row in rows for line in _lines(row, places)], note)


def _labels(example, number: int, length: int) -> dict[nesting.Span, str]:
    """The spans of a caption, of phrases and of regions, with the labels of the phrases."""
    found: dict[nesting.Span, str] = {}
    for kind in ("phrases", "regions"):
        for part in example[kind]:
            if part["caption"] == number and 0 <= part["start"] < part["end"] <= length:
                label = part["label"] if kind == "phrases" else ""
                found.setdefault((part["start"], part["end"]), label)
    return found


def split(text: str, spans: Sequence[nesting.Span], *cuts: int) -> list[nesting.Span]:
    """Where the words of a text stand; one is split where a span begins or ends within it."""
    borders = sorted({border for span in spans for border in span} | set(cuts))
    places = []
    for word in _WORD.finditer(text):
        ends = [word.start(), *(border for border in borders if word.start() < border < word.end()), word.end()]
        places += itertools.pairwise(ends)
    return places


def _lines(row: list[tuple[nesting.Span, Cell]], places: Sequence[nesting.Span]) -> list[list[Cell]]:
    """The cells of one depth as lines in which none overlap; trees need one line, crossing spans more."""
    lines: list[list[Cell]] = []
    ends: list[int] = []
    for (start, end), cell in row:
        inside = [index for index, place in enumerate(places) if start <= place[0] and place[1] <= end]
        if not inside:
            continue
        line = next((index for index, last in enumerate(ends) if last <= inside[0]), len(lines))
        if line == len(lines):
            lines.append([])
            ends.append(0)
        if inside[0] > ends[line]:
            lines[line].append(Cell(inside[0] - ends[line]))
        lines[line].append(dataclasses.replace(cell, pieces=len(inside)))
        ends[line] = inside[-1] + 1
    return lines
