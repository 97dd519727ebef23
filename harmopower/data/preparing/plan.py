"""Which part of the inputs becomes which shards: a function of the list of inputs alone."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import hashlib
import itertools
import json

from harmopower.data.readers.protocol import Unit


@dataclasses.dataclass(frozen=True)
class Task:
    """Units that are read one after the other into shards of their own."""

    number: int
    units: tuple[Unit, ...]
    split: str

    @property
    def bytes(self) -> int:
        """What there is to read."""
        return sum(unit.bytes for unit in self.units)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The tasks of a job, and the settings that its shards depend on (JSON-able)."""

    settings: dict
    tasks: tuple[Task, ...]

    @property
    def inputs(self) -> str:
        """A hash that changes when what is read has changed."""
        marks = [(unit.path, unit.place, unit.fingerprint) for task in self.tasks for unit in task.units]
        return hashlib.sha256(repr(marks).encode(errors="surrogateescape")).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    def to_json(self) -> dict:
        """What `plan.json` holds."""
        tasks = [[dataclasses.astuple(unit) for unit in task.units] for task in self.tasks]
        value = {"settings": self.settings, "inputs": self.inputs, "tasks": tasks}
        return json.loads(json.dumps(value))  # as it will be read, with lists for tuples

    @classmethod
    def from_json(cls, value: dict) -> "Plan":
        """The plan that `to_json` has written."""
        unit = lambda path, size, split, place, mark: Unit(path, size, split, tuple(place), mark)
        groups = [tuple(itertools.starmap(unit, units)) for units in value["tasks"]]
        return cls(value["settings"], _tasks(groups))


def make(units: Iterable[Unit], settings: dict, *, shard_bytes: int, together: bool = False) -> Plan:
    """Groups consecutive units of a split to tasks of at least `shard_bytes`; a larger unit is a task of its own.

    Args:
      units: of a reader, in its order.
      settings: see `Plan`.
      shard_bytes: of the inputs for a task; tasks cut their output at the same size.
      together: all units of a split in one task, for a try with a limit.
    """
    return Plan(settings, _tasks(_grouped(units, float("inf") if together else shard_bytes)))


def _tasks(groups: Iterable[Sequence[Unit]]) -> tuple[Task, ...]:
    return tuple(Task(number, tuple(group), group[0].split) for number, group in enumerate(groups))


def _grouped(units: Iterable[Unit], enough: float) -> Iterator[list[Unit]]:
    group: list[Unit] = []
    for unit in units:
        if group and (unit.split != group[0].split or _size(group) + unit.bytes > enough):
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def _size(group: list[Unit]) -> int:
    return sum(unit.bytes for unit in group)
