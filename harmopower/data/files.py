"""Files that are there whole or not at all, also after a kill or a power cut."""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any
import uuid

_PARTIAL = ".partial-"


@contextlib.contextmanager
def whole(path) -> Iterator[Path]:
    """Gives a path to write to; what was written there takes the place of `path` when the block ends without error.

    The temporary name is one of its own, so that two processes that write the same file do not mix; what a killed
    process leaves of it, `remove_partial` finds.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}{_PARTIAL}{uuid.uuid4().hex[:12]}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path, value) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path) -> Any:
    """The value of a JSON file; None where there is no such file or it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def remove_partial(directory) -> None:
    """Removes what killed writers have left in a folder; nobody may be writing there."""
    for path in Path(directory).glob(f"*{_PARTIAL}*"):
        path.unlink(missing_ok=True)


def sha256(path) -> str:
    """The hash of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Through to the disk, so that a name never outlives what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
