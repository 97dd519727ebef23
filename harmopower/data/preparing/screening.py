"""What happens to every sample alike, whatever its format: is it wanted, is it sound, how is its image stored."""

import dataclasses
import hashlib
from pathlib import Path
import re

from PIL import Image

from harmopower.data import images, records
from harmopower.data.preparing import guards, identities
from harmopower.data.readers.protocol import BadSample, Found, ReaderError
from harmopower.errors import RecordError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that all formats share and that shards depend on; JSON-able.

    Attributes:
      shortest_side: images are re-encoded to it where they are larger; 0 keeps them as they are.
      quality: of re-encoded JPEGs.
      exclude: a file of ids, aliases or SHA-256 of image bytes, one a line; empty for none.
      guard: `NAME=FILE` each, see `guards`.
      drop_bad_boxes: a bad box costs the box, not the pair.
      limit: examples of each split, for a try; 0 for all.
    """

    shortest_side: int = 0
    quality: int = images.QUALITY
    exclude: str = ""
    guard: list[str] = dataclasses.field(default_factory=list)
    drop_bad_boxes: bool = False
    limit: int = 0


class Screen:
    """Screens the samples of one task; ids count once."""

    def __init__(self, settings: Settings, taken: frozenset[int] = frozenset()):
        """Sets up for a task; `taken`: identities that it leaves to earlier ones."""
        self._settings = settings
        self._excluded = read_ids(settings.exclude) if settings.exclude else frozenset()
        self._has_hashes = any(map(_SHA256.fullmatch, self._excluded))
        self._guards = [guards.read(guard) for guard in settings.guard]
        self._identities: set[int] = set(taken)

    def __call__(self, found: Found) -> tuple[records.Example, list[tuple[str, str]]]:
        """Returns the example as it is to be stored, and notes on what was dropped from it.

        Raises:
          BadSample: it is to be left out.
        """
        example, notes = found.example, list(found.notes)
        _refuse_unwritable(example)
        self._refuse_unwanted(found)
        problems = records.examine(example)
        if self._settings.drop_bad_boxes:
            example, dropped = _drop_regions(example, problems)
            notes += dropped
            problems = [problem for problem in problems if problem.region < 0]
        if problems:
            raise BadSample(problems[0].code, "; ".join(problem.text for problem in problems))
        example = {**example, "image": self._image(example["image"])}
        self._identities.add(identities.identity(found.split, example["id"]))
        return example, notes

    def _refuse_unwanted(self, found: Found) -> None:
        names = {found.example["id"], *found.aliases}
        if self._has_hashes:
            names.add(hashlib.sha256(found.example["image"]).hexdigest())
        if named := names & self._excluded:
            raise BadSample("excluded", f"--exclude names {min(named)}")
        for guard, kept_out in self._guards:
            if named := names & kept_out:
                raise BadSample(f"guard_{guard}", f"--guard {guard} keeps out {min(named)}")
        if identities.identity(found.split, found.example["id"]) in self._identities:
            raise BadSample("duplicate_id", f"id {found.example['id']!r} is there already; the first one is kept")

    def _image(self, data: bytes) -> bytes:
        if not data:
            raise BadSample("image_empty", "the image has 0 bytes")
        try:
            if self._settings.shortest_side:
                return images.shrink(data, self._settings.shortest_side, self._settings.quality)
            images.decode(data)
        except RecordError as error:
            is_bomb = isinstance(error.__cause__, Image.DecompressionBombError)
            raise BadSample("image_bomb" if is_bomb else "image_broken", str(error)) from error
        return data


def read_ids(path) -> frozenset[str]:
    """The lines of a file of ids, without surrounding white space.

    Raises:
      ReaderError: it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"--exclude {path} cannot be read: {error}") from error
    return frozenset(line.strip() for line in lines if line.strip())


def _refuse_unwritable(example: records.Example) -> None:
    """JSON can hold half a surrogate pair, which no file of UTF-8 can."""
    texts = [example["id"], *example["captions"]]
    texts += [row[name] for row in example.get("regions", []) for name in ("text", "label")]
    texts += [row["text"] for row in example.get("negatives", [])]
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadSample("not_utf8", f"{text!r} is no UTF-8: {error.reason}") from error


def _drop_regions(example, problems) -> tuple[records.Example, list[tuple[str, str]]]:
    bad = {problem.region for problem in problems if problem.region >= 0}
    if not bad:
        return example, []
    notes = [(problem.code, problem.text) for problem in problems if problem.region >= 0]
    kept = [region for index, region in enumerate(example["regions"]) if index not in bad]
    return {**example, "regions": kept}, notes
