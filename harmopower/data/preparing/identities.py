"""Ids are unique within a split: of the samples of one id the first in the order of the inputs is kept.

A task sees to it for its own samples. Those of different tasks can only be compared when all are done: a task that has
an id which an earlier one has too is done once more, with a list of what is taken.
"""

import hashlib
from pathlib import Path

import numpy as np

from harmopower.data import files, jobs


def identity(split: str, name: str) -> int:
    """8 bytes of hash of a split and an id."""
    return int.from_bytes(hashlib.sha256(f"{split}\0{name}".encode()).digest()[:8], "little")


def write(folder: Path, number: int, identities: list[int]) -> None:
    """Keeps the identities of the examples of a task."""
    with files.whole(_path(folder, number, "ids")) as partial:
        partial.write_bytes(np.array(identities, "<u8").tobytes())


def taken(folder: Path, number: int) -> frozenset[int]:
    """The identities that a task has to leave to earlier ones."""
    path = _path(folder, number, "taken")
    return frozenset(_read(path).tolist()) if path.exists() else frozenset()


def settle(folder: Path, count: int) -> list[int]:
    """Gives back the tasks to be done once more, their reports removed; none where all ids are unique."""
    found = [_read(_path(folder, number, "ids")) for number in range(count)]
    owners = np.repeat(np.arange(count), [len(identities) for identities in found])
    together = np.concatenate([*found, np.zeros(0, "<u8")])
    later = np.ones(len(together), bool)
    later[np.unique(together, return_index=True)[1]] = False
    again = np.unique(owners[later]).tolist()
    for number in again:
        _start_again(folder, number, together[later & (owners == number)])
    return again


def _start_again(folder: Path, number: int, identities: np.ndarray) -> None:
    # The report goes last: a kill before that leaves everything for the next `settle` to find.
    with files.whole(_path(folder, number, "taken")) as partial:
        partial.write_bytes(identities.tobytes())
    report = jobs.report_path(folder, number)
    for shard in files.read_json(report)["shards"]:
        (folder / shard["file"]).unlink(missing_ok=True)
    report.unlink()


def _read(path: Path) -> np.ndarray:
    return np.fromfile(path, "<u8")


def _path(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:05d}.{kind}"
