"""Flickr30k Entities: five captions an image, whose phrases name chains of boxes.

The folder of `--input` is that of BryanPlummer/flickr30k_entities: `Sentences/ID.txt`, five lines such as

    [/EN#283585/people Two young guys] with [/EN#283587/bodyparts shaggy hair] look .

`Annotations/ID.xml`, where an `object` has one or more `name` (chains) and a `bndbox`, or says `nobndbox` or `scene`;
and `train.txt`, `val.txt`, `test.txt` with the ids of the splits (29,783 / 1,000 / 1,000: not Karpathy's). Pixels count
from 1 and the last one belongs to the box, so that it is x from xmin - 1 to xmax here. The caption is the line's words
joined by spaces, to which spans belong; the raw caption of Flickr30k is punctuated otherwise. A phrase becomes a region
for every box of its chain; chain 0 is nothing that can be seen. The captions that `UNRELATED_CAPTIONS` lists (image and
number of the sentence, from 1) are left out where the file is there.
"""

import argparse
import collections
from collections.abc import Iterator
import dataclasses
import functools
from pathlib import Path
import re
import xml.etree.ElementTree as ElementTree

from harmopower.data.readers import annotation_files, boxes, protocol
from harmopower.data.readers.protocol import BadSample

SPLITS = ("train", "val", "test")
NOT_VISUAL = "0"
_PHRASE = re.compile(r"\[/EN#(\w+)((?:/[^\s\]]+)*)\s+([^\]]*)\]")


class Reader(protocol.Reader):
    """Flickr30k Entities: phrases of five captions and their boxes."""

    example = (
        "python -m tools.prepare flickr30k_entities --input flickr30k_entities --images flickr30k-images "
        "--output data/flickr30k_entities"
    )
    data_set = "flickr30k_entities"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        if len(self.inputs) != 1 or not (self.inputs[0][1] / "Sentences").is_dir():
            raise protocol.ReaderError(
                f"--input {' '.join(options.input)}: give the one folder that has Sentences in it"
            )
        self._root = self.inputs[0][1]
        self._images = annotation_files.folder_of(options.images, "--images")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "the folder that has Sentences, Annotations, train.txt, val.txt and test.txt in it")
        parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images, ID.jpg")

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of the lists of ids; `place` is the first, the one behind the last, the split."""
        lists = [(split, self._root / f"{split}.txt") for split in SPLITS]
        if not any(path.is_file() for _, path in lists):
            raise protocol.ReaderError(
                f"--input {self._root} has none of {', '.join(f'{name}.txt' for name in SPLITS)}"
            )
        for number, (split, path) in enumerate(lists):
            if path.is_file():
                images = (str(self._images / f"{name}.jpg") for name in self._ids(number))
                yield from annotation_files.units(path, split, images, number)

    @functools.cache  # noqa: B019 (a reader lives as long as its process)
    def _ids(self, number: int) -> list[str]:
        return (self._root / f"{SPLITS[number]}.txt").read_text().split()

    @functools.cached_property
    def _unrelated(self) -> set[tuple[str, int]]:
        return unrelated(self._root)

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The images of a range."""
        first, last, number = unit.place
        for name in self._ids(number)[first:last]:
            yield protocol.attempt(name, self._found, name, unit.split)

    def _found(self, name: str, split: str) -> protocol.Found:
        image = protocol.read_image(self._images, f"{name}.jpg")
        boxes_of = chains(protocol.inside(self._root / "Annotations", f"{name}.xml"), protocol.image_size(image))
        found = sentences(protocol.inside(self._root / "Sentences", f"{name}.txt"))
        kept = [sentence for number, sentence in enumerate(found) if (name, number + 1) not in self._unrelated]
        if not kept:
            raise BadSample("no_caption", f"{name} has no sentence")
        regions = [
            annotation_files.region(box, (number, start, end), label=kind)
            for number, sentence in enumerate(kept)
            for start, end, chain, kind in sentence.phrases
            if chain != NOT_VISUAL
            for box in boxes_of[chain]
        ]
        example = {"id": name, "image": image, "captions": [sentence.text for sentence in kept], "regions": regions}
        return protocol.Found(example, split, where=f"{name}.txt")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A caption without its marks, and its phrases as (start, end, chain, kind), characters of the text."""

    text: str
    phrases: tuple[tuple[int, int, str, str], ...]


def parse_sentence(line: str) -> Sentence:
    """Takes the marks out of a line; a phrase of several kinds, such as people/other, has them joined by a slash."""
    words, phrases, done = "", [], 0
    for match in _PHRASE.finditer(line):
        words = _joined(words, line[done : match.start()])
        chain, kinds, phrase = match.groups()
        start = len(words) + bool(words)
        words = _joined(words, phrase)
        if phrase.strip():
            phrases.append((start, len(words), chain, kinds.strip("/")))
        done = match.end()
    return Sentence(_joined(words, line[done:]), tuple(phrases))


def unrelated(folder: Path) -> set[tuple[str, int]]:
    """Image and number, from 1, of the captions that speak of another picture."""
    path = folder / "UNRELATED_CAPTIONS"
    rows = (line.split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return {(row[0], int(row[1])) for row in rows if len(row) >= 2 and row[1].isdigit()}


def _joined(text: str, more: str) -> str:
    return " ".join(filter(None, [text, " ".join(more.split())]))


def sentences(path: Path) -> list[Sentence]:
    """The captions of an image.

    Raises:
      BadSample: the file cannot be read.
    """
    try:
        lines = path.read_bytes().decode().split("\n")  # splitlines would also part a caption at a U+2028 within it
    except OSError as error:
        raise BadSample("missing_key", f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSample("not_utf8", f"{path.name}: {error}") from error
    return [parse_sentence(line) for line in lines if line.strip()]


def chains(path: Path, size: tuple[int, int]) -> dict[str, list[list[float]]]:
    """The boxes of every chain; none for those that have no box, are the whole scene, or are not annotated.

    Raises:
      BadSample: the file cannot be read.
    """
    found = collections.defaultdict(list)
    try:
        for part in ElementTree.parse(path).getroot().iter("object"):
            box = part.find("bndbox")
            if box is None:
                continue
            for name in part.findall("name"):
                x0, y0, x1, y1 = (int(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
                found[name.text].append(
                    annotation_files.clip(boxes.normalise([x0 - 1, y0 - 1, x1, y1], "xyxy_pixels", size))
                )
    except OSError as error:
        raise BadSample("missing_key", f"{path.name} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise BadSample("unreadable", f"{path.name}: {error}") from error
    return found
