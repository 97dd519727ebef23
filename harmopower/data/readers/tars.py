"""Tars in the layout of WebDataset: consecutive members whose names are equal up to the first dot are a sample.

    00012.tar:  000120007.jpg  000120007.txt  000120007.json  000120003.jpg  000120003.txt ...

The order of samples means nothing (crawlers write them as they arrive) and keys may leave gaps; so may the numbers of
the tars. A tar is read once, from its start to its end, and nothing is unpacked to the disk. One that was cut or
damaged gives what was whole in it, and one `tar_cut` for all that follows.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import json
import os
from pathlib import Path
import posixpath
import tarfile

from harmopower.data.readers import protocol
from harmopower.data.readers.protocol import BadSample, LeftOut

IMAGES = ("jpg", "jpeg", "png", "webp")  # what the bytes are, they say themselves
_END = bytes(tarfile.BLOCKSIZE)
_ROOT = "/tar"  # stands for the tar when names are checked
_ERRORS = (tarfile.TarError, ValueError, OverflowError)  # what damaged headers let out of tarfile


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample: its key, and the bytes of its members by their endings, in lower case and without the dot."""

    tar: str
    key: str
    members: dict[str, bytes]

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.tar} {self.key}"

    def image(self) -> bytes:
        """The first member that is named as an image.

        Raises:
          BadSample: `missing_key` or `image_empty`.
        """
        ending = next((ending for ending in IMAGES if ending in self.members), "")
        data = self.get(ending, "no image (" + ", ".join(IMAGES) + ")")
        if not data:
            raise BadSample("image_empty", f"{self.where}.{ending} has 0 bytes")
        return data

    def get(self, ending: str, missing: str = "") -> bytes:
        """The bytes of a member.

        Raises:
          BadSample: `missing_key`.
        """
        if ending not in self.members:
            raise BadSample("missing_key", f"{self.where} has {missing or f'no .{ending}'}", self.members)
        return self.members[ending]

    def text(self, ending: str) -> str:
        """A member as text.

        Raises:
          BadSample: `missing_key` or `not_utf8`.
        """
        try:
            return self.get(ending).decode()
        except UnicodeDecodeError as error:
            raise BadSample("not_utf8", f"{self.where}.{ending} is not UTF-8: {error}") from error

    def json(self, ending: str = "json"):
        """What a member says in JSON.

        Raises:
          BadSample: `missing_key`, `not_utf8` or `unreadable`.
        """
        text = self.text(ending)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadSample("unreadable", f"{self.where}.{ending} is not JSON: {error}") from error

    def facts(self) -> dict:
        """The object in `json`.

        Raises:
          BadSample: as `json`.
        """
        found = self.json()
        if not isinstance(found, dict):
            raise BadSample("unreadable", f"{self.where}.json is no object but {type(found).__name__}")
        return found


class Reader(protocol.Reader):
    """What formats in tars share; one of them says what is `found` in a sample."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self.tars = [(split, tar) for split, path in self.inputs for tar in listed(path)]

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of every format in tars."""
        protocol.add_input(parser, "tars, or folders of tars (a range {000..099} must have no gaps; a folder may)")
        parser.add_argument(
            "--ids",
            choices=("key", "tar/key"),
            default="key",
            help="what makes an id; tar/key where keys begin anew in every tar (default %(default)s)",
        )

    def units(self) -> Iterator[protocol.Unit]:
        """Whole tars."""
        yield from map(unit, self.tars)

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The samples of a tar."""
        for sample in samples(unit.path):
            yield self.item(sample, unit)

    def item(self, sample: Sample | LeftOut, unit: protocol.Unit) -> protocol.Item:
        """What a sample is; what is none stays."""
        if isinstance(sample, LeftOut):
            return sample
        return protocol.attempt(self.id(sample), self.found, sample, unit)

    def id(self, sample: Sample) -> str:
        """The id of a sample."""
        return f"{sample.tar.removesuffix('.tar')}/{sample.key}" if self.options.ids == "tar/key" else sample.key

    def found(self, sample: Sample, unit: protocol.Unit) -> protocol.Found:
        """Makes an example of a sample.

        Raises:
          BadSample: it cannot be used.
        """
        raise NotImplementedError


def listed(path: Path) -> list[Path]:
    """The tars of an input: itself, or all below a folder.

    Raises:
      ReaderError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("*.tar"))
    if not found:
        there = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise protocol.ReaderError(f"--input {path}: no *.tar is in this folder; there are: {there}")
    return found


def unit(tar: tuple[str, Path]) -> protocol.Unit:
    """The unit of a tar, given as (split, path)."""
    size, mark = protocol.fingerprint([tar[1]])
    return protocol.Unit(str(tar[1]), size, tar[0], fingerprint=mark)


def samples(path) -> Iterator[Sample | LeftOut]:
    """The samples of a tar in its order, and what cannot be one."""
    path = Path(path)
    group, endings = None, frozenset()
    try:
        for name, data in _members(path):
            key, ending = _parts(name)
            if data is None or not ending:
                what = "no file but a link or the like" if data is None else "a name without an ending"
                yield LeftOut("unreadable", key, f"{path.name}: {key} is {what}")
                continue
            if group is not None and key == group.key and ending not in group.members:
                group.members[ending] = data
                continue
            if group is not None:
                yield _checked(group)
                endings |= group.members.keys()
            group = Sample(path.name, key, {ending: data})
    except _Cut as cut:
        if group is not None and _is_whole(group, endings, cut):
            yield _checked(group)
        yield LeftOut("tar_cut", path.name, f"{path.name}: {cut}; what follows is lost")
        return
    if group is not None:
        yield _checked(group)


def _is_whole(group: Sample, endings: frozenset[str], cut: "_Cut") -> bool:
    """Whether nothing of the last sample of a tar that was cut can be missing: it has all `endings` of the others."""
    if cut.name:
        return _parts(cut.name)[0] != group.key
    return bool(endings) and endings <= group.members.keys()


class _Cut(Exception):
    """A tar ends before its end; `name`: of the member within which it does, empty where it is behind a whole one."""

    def __init__(self, text: str, name: str = ""):
        super().__init__(text)
        self.name = name


def _members(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Names and bytes of the members, folders left aside; None for links and devices.

    Raises:
      _Cut: the tar was cut or is damaged.
      ReaderError: the disk failed, which says nothing about the tar.
    """
    with contextlib.ExitStack() as stack:
        with _damage(path, "it is no tar"):
            file = stack.enter_context(open(path, "rb"))
            tar = tarfile.TarFile(fileobj=file, encoding="utf-8")
        for member in _headers(path, tar):
            is_plain = member.isreg() and not member.issparse()  # a sparse one may claim any size
            if not member.isdir():
                yield member.name, _bytes(path, tar, member) if is_plain else None
        with _damage(path, f"it is damaged at byte {tar.offset}"):
            file.seek(tar.offset)
            if file.read(len(_END)) != _END:
                raise _Cut(f"it is cut or damaged at byte {tar.offset}, without the mark of a tar's end")


def _headers(path: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    last = -1
    while True:
        with _damage(path, f"it is cut at byte {tar.offset}"):
            member = tar.next()
        if member is None:
            return
        if tar.offset <= last:
            raise _Cut(f"it is damaged at byte {tar.offset}: the next member would lie before this one")
        last = tar.offset
        # tarfile would keep the headers of all.
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - its stub lacks what it has always had
        yield member


def _bytes(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    size = os.fstat(tar.fileobj.fileno()).st_size  # pyright: ignore[reportAttributeAccessIssue] - `path` was opened
    if not 0 <= member.size <= size - member.offset_data:  # tarfile would ask for as much memory first
        raise _Cut(f"it is cut within {member.name}, at byte {size}", member.name)
    with _damage(path, f"it is cut within {member.name}", member.name):
        file = tar.extractfile(member)
        assert file is not None  # `member` is a file
        return file.read()


@contextlib.contextmanager
def _damage(path: Path, what: str, name: str = ""):
    """Tells a damaged tar from a disk that fails: of the first the rest can be used, the second must be tried again."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a header leads to that points before the start of the file
            raise protocol.ReaderError(f"{path} cannot be read: {error}") from error
        raise _Cut(f"{what}: {error}", name) from error
    except _ERRORS as error:
        raise _Cut(f"{what}: {error}", name) from error


def _parts(name: str) -> tuple[str, str]:
    """Key and ending: folders and all up to the first dot of the name, and what follows the dot."""
    # Names are bytes in a tar; those that are not UTF-8 become text that every file can hold.
    name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return posixpath.normpath(folder + slash + stem) if stem else name, ending.lower() if stem else ""


def _checked(group: Sample) -> Sample | LeftOut:
    try:
        protocol.inside(_ROOT, group.key)
    except BadSample as error:
        return LeftOut(error.reason, group.key, f"{group.tar}: the name of {group.key!r} leads out of the tar")
    return group
