"""Parse trees of the captions: noun, verb and prepositional phrases and sentences, as spans of characters.

    python -m tools.annotate parses --data data/photos --name spacy --parser spacy:en_core_web_sm --workers 8
    python -m tools.annotate parses --data data/photos --name trees --penn train=trees.txt

`--parser spacy:MODEL` parses with spaCy; the rule is that of METHOD section 3, in `constituents.py`, and
docs/annotations.md shows it with ten examples. Captions are cleaned (entities, white space) before they are parsed and
put into lower case where they are all capitals; spans count the characters of the caption as it was written. `--penn`
takes the trees of any other parser: a text file with one tree a line for every caption, in the order of the records, or
a JSON file of trees by record id, `{"000017": ["(S (NP ...", ...]}`, one for each caption.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
import functools
import itertools
import json

from harmopower.data import clean, records, trees
from harmopower.data.annotations import constituents, protocol
from harmopower.data.annotations.overlays import AnnotationError
from harmopower.data.readers.protocol import parse_inputs

_AT_ONCE = 1_000  # records whose captions are parsed together
_BATCH = 256  # captions that spaCy parses together
_NOT_NEEDED = ("ner", "lemmatizer")  # of spaCy's models; parts of speech, parse and noun chunks are


class Annotator(protocol.Annotator):
    """Parse trees of the captions, by spaCy or from a file of trees."""

    example = (
        "python -m tools.annotate parses --data data/photos --name spacy --parser spacy:en_core_web_sm --workers 8"
    )
    makes = ("phrases",)

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._parsed: dict[str, list[trees.Span]] = {}

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this kind."""
        parser.add_argument("--parser", default="spacy:en_core_web_sm", help="spacy:MODEL (default %(default)s)")
        parser.add_argument(
            "--penn",
            nargs="+",
            default=[],
            metavar="[SPLIT=]FILE",
            help="Penn-bracket trees, in place of a parser: one a line, or .json by id; SPLIT is train unless given",
        )

    def inputs(self) -> list[str]:
        """The files of trees."""
        return [str(path) for _, path in parse_inputs(self.options.penn)]

    def check(self) -> None:
        """Loads the parser.

        Raises:
          AnnotationError: it is not installed.
          ReaderError: there is no file of trees.
        """
        if not self.inputs():
            load(self.options.parser)

    def annotate(self, part: protocol.Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        """Yields the phrases of all captions of each example."""
        if self.options.penn:
            yield from self._from_trees(part, examples)
            return
        model = load(self.options.parser)
        examples = iter(examples)
        while some := [(example["id"], example["captions"]) for example in itertools.islice(examples, _AT_ONCE)]:
            self._parse(model, dict.fromkeys(caption for _, captions in some for caption in captions))
            for _, captions in some:
                yield {"phrases": _phrases(self._parsed[caption] for caption in captions)}

    def _parse(self, model, captions: Iterable[str]) -> None:
        """Adds those that were not parsed yet in this task."""
        new = [caption for caption in captions if caption not in self._parsed]
        self.counts["captions parsed"] += len(new)
        self._parsed |= zip(new, spans(model, new), strict=True)

    def _from_trees(self, part: protocol.Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        files = {split: str(path) for split, path in parse_inputs(self.options.penn)}
        path = files.get(part.split, "")
        by_id = _by_id(path) if path.endswith(".json") else {}
        lines = _lines(path, part) if path and not by_id else iter(())
        for example in examples:
            in_order = list(itertools.islice(lines, len(example["captions"])))
            yield {"phrases": self._read(example, by_id.get(example["id"], in_order))}

    def _read(self, example: dict, found: str | list[str]) -> list[dict]:
        """The phrases of an example's trees; a tree that does not fit its caption costs that caption its phrases."""
        name, captions = example["id"], example["captions"]
        found = [found] if isinstance(found, str) else found
        if len(found) != len(captions):
            self.leave_out("no_tree", name, f"it has {len(found)} trees for {len(captions)} captions")
            return []
        return _phrases(self._tree(name, *pair) for pair in zip(found, captions, strict=True))

    def _tree(self, name: str, tree: str, caption: str) -> list[trees.Span]:
        try:
            return trees.spans_from_penn(tree, caption)
        except trees.TreeError as error:
            self.leave_out("bad_tree", name, str(error))
            return []


def _phrases(spans_of_captions: Iterable[list[trees.Span]]) -> list[dict]:
    return [
        {"caption": number, "start": start, "end": end, "label": label}
        for number, found in enumerate(spans_of_captions)
        for start, end, label in found
    ]


# --- spaCy ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def load(parser: str):
    """A spaCy model by its name, `spacy:en_core_web_sm`, or a folder; once in a process.

    Raises:
      AnnotationError: spaCy or the model is not installed; the text has the command that installs it.
    """
    kind, _, name = parser.partition(":")
    if kind != "spacy" or not name:
        raise AnnotationError(f"--parser is {parser!r}; it must be spacy:MODEL, or give trees with --penn")
    try:
        import spacy  # an extra, and slow to import
    except ImportError as error:
        raise AnnotationError(
            f"--parser {parser} needs spaCy; install it: pip install -c constraints.txt -e '.[parse]' && "
            f"python -m spacy download {name}"
        ) from error
    try:
        return spacy.load(name, exclude=_NOT_NEEDED)
    except OSError as error:
        raise AnnotationError(
            f"--parser {parser}: spaCy has no model {name}; install it: python -m spacy download {name}"
        ) from error


def spans(model, captions: list[str]) -> Iterator[list[trees.Span]]:
    """The constituents of each caption, in characters of the caption as it was written."""
    cleaned = [clean.align(caption, lower=caption.isupper()) for caption in captions]
    documents = model.pipe((text for text, _ in cleaned), batch_size=_BATCH)
    for document, (_, places) in zip(documents, cleaned, strict=True):
        yield [_written(document, places, *span) for span in constituents.constituents(document)]


def _written(document, places, first: int, last: int, label: str) -> trees.Span:
    start, end = document[first].idx, document[last - 1].idx + len(document[last - 1])
    return (start, end, label) if places is None else (places[start][0], places[end - 1][1], label)


# --- trees of other parsers ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _by_id(path: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise AnnotationError(f"--penn {path} is no JSON of trees by record id: {error}") from error
    return found


@functools.lru_cache(maxsize=1)
def _captions_before(directory: str, split: str) -> list[int]:
    """The number of captions before each record, and of all; reads the split once in a process."""
    counts = (len(example["captions"]) for example in records.read(directory, split))
    return list(itertools.accumulate(counts, initial=0))


def _lines(path: str, part: protocol.Part) -> Iterator[str]:
    """The trees from the first one of the task on.

    Raises:
      AnnotationError: there are more or fewer than captions.
    """
    before = _captions_before(part.directory, part.split)
    with open(path, encoding="utf-8") as file:
        count = sum(1 for _ in file)
    if count != before[-1]:
        raise AnnotationError(
            f"--penn {path} has {count} lines, but the split {part.split} has {before[-1]} captions; write one tree "
            "for each, an empty line where there is none, or a .json by id"
        )
    with open(path, encoding="utf-8") as file:
        yield from itertools.islice(file, before[part.start], None)
