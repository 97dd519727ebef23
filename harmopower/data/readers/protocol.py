"""What a reader of a published format promises to the machinery that prepares data sets.

A reader splits its inputs into `units`, each read by one process from its start to its end, and yields from a unit an
item for every sample that it meets: `Found`, or `LeftOut` with a reason. So the whole of a format, here folders of
images whose names are the captions, is

    class Reader(protocol.Reader):
        "Images whose file names are their captions."       # its first line is the help of the command

        example = "python -m tools.prepare named --input photos --output data/named"

        @classmethod
        def add_options(cls, parser):
            protocol.add_input(parser, "folders of images")
            parser.add_argument("--lower", action="store_true", help="captions in lower case")

        def units(self):
            for split, folder in self.inputs:
                yield from protocol.units_of_images(folder, split, self._files(folder))

        def read(self, unit):
            first, last = unit.place
            for path in self._files(Path(unit.path))[first:last]:
                yield protocol.attempt(path.name, self._found, path, unit)

        def _files(self, folder):
            return sorted(folder.glob("*.jpg"))

        def _found(self, path, unit):
            if not path.stem.strip():
                raise protocol.BadSample("empty_caption", f"{path.name} has no words")
            caption = path.stem.lower() if self.options.lower else path.stem
            image = protocol.read_image(path.parent, path.name)
            return protocol.Found({"id": path.name, "image": image, "captions": [caption]}, unit.split)

plus its name in `readers.FORMATS`. The machinery does the rest for every format alike: it decodes (and, if asked,
re-encodes) each image, checks captions, spans and boxes (`records.examine`), leaves out what `--exclude` names and ids
that a shard has already, counts the reasons, writes, resumes, and reports.

Rules
- `units()` is a function of the inputs alone, in a fixed order; `read(unit)` of the inputs and that unit alone.
  Several units of one file share it between processes: an annotation file gives ranges of its list of images.
- A reader is made anew in every process from its options and then reads many units there. What is costly to load
  (a parsed annotation file) belongs in a `functools.cached_property`; nothing of it is sent to other processes.
- What is mended or dropped within a sample that stays (an empty box) is counted too: `Found.notes`.
- Images are handed on as the encoded bytes that were found. Boxes are y0, x0, y1, x1 as shares of height and width of
  the upright image (EXIF orientation applied); `boxes.normalise` turns other conventions into that.
- A reason is a short code in snake case. Codes that readers share: `unreadable` (the sample as a whole cannot be
  parsed), `missing_key` (give `keys`, those that the sample has: where no sample has the key that a format is about,
  the job stops after 1,000 samples and names them), `image_missing`, `image_empty`, `path_outside`, `not_utf8`,
  `no_caption`, `empty_caption`, `bad_tree`, `bad_box`. The machinery adds `image_broken`, `image_bomb`,
  `duplicate_id`, `excluded`, `nan_box`, `box_outside`, `empty_box`, `bad_span` and the like.
"""

import abc
import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import glob
import hashlib
import io
import os
from pathlib import Path
import re

from PIL import ExifTags, Image

from harmopower.errors import UserError

DEFAULT_SPLIT = "train"
_UNIT_BYTES = 32 * 2**20  # of images: an eighth of an output shard, so that shards come out near their size
_UNIT_IMAGES = 10_000
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class ReaderError(UserError, ValueError):
    """Inputs that cannot be read at all; the text names the option or file and what to do."""


class BadSample(ValueError):
    """One sample that cannot be used; see `attempt`."""

    def __init__(self, reason: str, text: str, keys: Iterable[str] = ()):
        super().__init__(text)
        self.reason, self.keys = reason, tuple(keys)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A share of the inputs.

    Attributes:
      path: the file or folder.
      bytes: what there is to read, images included; output shards are cut by it.
      split: of all its examples; empty where each example says its own.
      place: which part of the file, as the reader likes it; JSON-able numbers.
      fingerprint: changes when what is read has changed, see `fingerprint`.
    """

    path: str
    bytes: int
    split: str = DEFAULT_SPLIT
    place: tuple[int, ...] = ()
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A sample that can be used as far as the reader knows.

    Attributes:
      example: see `records`; empty lists may be left out.
      split: where it belongs.
      aliases: other ids of the image that `--exclude` may name, such as `coco:391895`.
      where: file and line, or the like, for messages.
      notes: (reason, one line) for everything that was mended or dropped within the sample, such as an empty box; with
        an empty line it is counted and not named, as for what the user has asked for.
    """

    example: dict
    split: str = DEFAULT_SPLIT
    aliases: tuple[str, ...] = ()
    where: str = ""
    notes: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A sample that cannot be used: the code of the reason, its id, one line for people; `keys`: those it has."""

    reason: str
    id: str
    text: str
    keys: tuple[str, ...] = ()


Item = Found | LeftOut


class Reader(abc.ABC):
    """A format; see the head of this module.

    Attributes:
      example: a command line for the help.
      data_set: the name of the data set in TFDS, lower case with underscores.
      vocab_size: of a tokenizer that is trained on the captions, unless the command line says otherwise.
      workers: default number of processes.
      shard_bytes: of the inputs that make an output shard.
      options: of the command line, the shared ones of `screening.Settings` included.
      inputs: what `--input` gave, as (split, absolute path), checked to exist.
    """

    example = ""
    data_set = "own"
    vocab_size = 16_384
    workers = 1
    shard_bytes = 256 * 2**20  # some thousand photographs: a minute of work to lose, a file that any store likes

    def __init__(self, options: argparse.Namespace):
        """Looks at the options; cheap.

        Raises:
          ReaderError: they are impossible, or an input does not exist.
        """
        self.options = options
        self.inputs = parse_inputs(getattr(options, "input", None) or [])

    @classmethod
    @abc.abstractmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this format; their values must be JSON-able."""

    @abc.abstractmethod
    def units(self) -> Iterator[Unit]:
        """The shares of the inputs, in the order that the data set keeps.

        Raises:
          ReaderError: an input as a whole cannot be read.
        """

    @abc.abstractmethod
    def read(self, unit: Unit) -> Iterator[Item]:
        """What is in a unit, a `Found` or `LeftOut` for each of its samples."""

    def metadata(self, labels: list[str]) -> dict:
        """What is stored with the data set; `labels` are those of all regions, sorted (none if more than 10,000)."""
        return {"classes": labels}

    def summary(self) -> list[str]:
        """Lines for the report that no sample tells, such as a crawl's table of failures."""
        return []


def add_input(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--input`, of files or folders, each with an optional split before it."""
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="[SPLIT=]PATH",
        help=f"{what}; SPLIT is {DEFAULT_SPLIT} unless given, as in train=a test=b; PATH may hold * and {{000..099}}",
    )


def parse_inputs(values: Sequence[str]) -> list[tuple[str, Path]]:
    """Reads the words after `--input`: their splits, and the paths that patterns stand for, sorted.

    Raises:
      ReaderError: nothing is there.
    """
    found = []
    for value in values:
        split, equals, pattern = value.partition("=")
        if os.path.exists(value) or not equals or not is_split(split):
            split, pattern = DEFAULT_SPLIT, value
        for part in _expand_range(pattern):
            paths = [part] if os.path.exists(part) else sorted(glob.glob(os.path.expanduser(part)))
            if not paths:
                raise ReaderError(f"--input {value}: {part} does not exist")
            # Absolute, since workers of a cluster stand elsewhere.
            found += [(split, Path(path).absolute()) for path in paths]
    return found


def _expand_range(pattern: str) -> list[str]:
    """`a{08..11}b` as webdataset writes it; one range a pattern."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [pattern[: match.start()] + number + pattern[match.end() :] for number in numbers]


def attempt(name: str, make: Callable[..., Item], *arguments) -> Item:
    """What `make(*arguments)` returns, or `LeftOut` where it raises BadSample."""
    try:
        return make(*arguments)
    except BadSample as error:
        return LeftOut(error.reason, name, str(error), error.keys)


def read_image(folder, name: str) -> bytes:
    """The bytes of an image that an annotation names, relative to `folder`.

    Raises:
      BadSample: `path_outside`, `image_missing` or `image_empty`.
    """
    path = inside(folder, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSample("image_missing", f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise BadSample("image_empty", f"{path} has 0 bytes")
    return data


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of the upright image, read from its header.

    Raises:
      BadSample: `image_broken`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if is_turned else (image.width, image.height)
    except Exception as error:  # what Pillow's parsers let out of damaged bytes is not listed anywhere
        raise BadSample("image_broken", f"the image ({len(data)} bytes) has no readable header: {error}") from error


def is_split(name: str) -> bool:
    """Whether a split may be called so; the name becomes part of file names."""
    return bool(_SPLIT_NAME.fullmatch(name))


def inside(folder, name: str) -> Path:
    """`folder / name`, refused where the name (not a link that the user has put there) climbs out of the folder.

    Raises:
      BadSample: `path_outside`.
    """
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, name))
    if "\0" in name or os.path.commonpath([root, path]) != root:
        raise BadSample("path_outside", f"{name!r} lies outside {root}")
    return Path(path)


def fingerprint(paths: Iterable) -> tuple[int, str]:
    """The bytes of files together and a hash of their names, sizes and times of change (ns); a missing one counts as 0.

    Times stand for contents (our choice: hashing every image would read a data set twice). So a file that was copied
    anew without its time counts as changed, and one that was changed with its time put back does not.
    """
    total, digest = 0, hashlib.sha256()
    for path in paths:
        size, changed = _stat(path)
        total += size
        digest.update(f"{path}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    return total, digest.hexdigest()[:16]


def _stat(path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return 0, -1
    return status.st_size, status.st_mtime_ns


def units_of_images(path, split: str, images: Iterable) -> Iterator[Unit]:
    """Cuts a list of images into units of about 32 MiB; `place` is (first, last + 1) of the list.

    Args:
      path: the annotation file (or folder) that names them; its own change changes every unit.
      split: of all of them, or empty.
      images: their paths, in the order of the list; consumed once.
    """
    own = f"{path}" if os.path.isdir(path) else fingerprint([path])[1]
    first, total, digest, number = 0, 0, hashlib.sha256(own.encode()), 0
    for number, image in enumerate(images, start=1):
        size, mark = fingerprint([image])
        total += size
        digest.update(mark.encode())
        if total >= _UNIT_BYTES or number - first >= _UNIT_IMAGES:
            yield Unit(str(path), total, split, (first, number), digest.hexdigest()[:16])
            first, total, digest = number, 0, hashlib.sha256(own.encode())
    if first < number:
        yield Unit(str(path), total, split, (first, number), digest.hexdigest()[:16])
