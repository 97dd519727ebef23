"""One task of a job: reads its units, screens every sample, writes shards and reports."""

import argparse
import collections
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from harmopower.data import files, readers, records, shards
from harmopower.data.preparing import FOLDER, identities
from harmopower.data.preparing.plan import Plan, Task
from harmopower.data.preparing.screening import Screen, Settings
from harmopower.data.readers import protocol
from harmopower.errors import CommandError

PLAN = "plan.json"
CAPTIONS = 1_000_000  # kept of all tasks together, for training a tokenizer
MAX_LABELS = 10_000  # more are free text and no list of classes
_MAX_NAMED = 10_000  # samples left out that a report names; all are counted
_KEYS_AFTER = 1_000
_SLACK = 1.25  # records are a little longer than their inputs, and a shard should not have a tail of a few records
DATA_ERROR = 65


@dataclasses.dataclass(frozen=True)
class Work:
    """A picklable `jobs.Work`: all else is in the plan, which every process reads for itself.

    Attributes:
      directory: the folder of the data set.
      plan: the digest of the plan.
      shard_bytes: of the inputs for a shard; a quarter more of records ends one.
      strict: the first sample that is left out ends the job.
    """

    directory: str
    plan: str
    shard_bytes: int
    strict: bool = False

    def __call__(self, number: int) -> dict:
        """Makes the shards of a task.

        Raises:
          CommandError: with `--strict`, a sample that was left out; or no sample has what the format is about.
        """
        plan = _plan(self.directory, self.plan)
        task, settings = plan.tasks[number], Settings(**plan.settings["screening"])
        reader = _reader(plan.settings["format"], json.dumps(plan.settings["options"]), self.plan)
        share = task.bytes / max(1, sum(task.bytes for task in plan.tasks))
        folder = Path(self.directory) / FOLDER
        screen = Screen(settings, identities.taken(folder, number))
        tally = Tally(seed=number, captions=max(1, round(CAPTIONS * share)))
        with contextlib.ExitStack() as stack:
            writers: dict[str, shards.Writer] = {}
            for split, example in screened(reader, task, screen, settings.limit, tally, self.strict):
                if split not in writers:
                    writer = shards.Writer(folder, f"{number:05d}", split, round(_SLACK * self.shard_bytes))
                    writers[split] = stack.enter_context(writer)
                writers[split].add(records.serialise(example))
        tally.write(folder, number)
        return {"shards": [dataclasses.asdict(s) for w in writers.values() for s in w.shards], **tally.report()}


# Loaded once in a process; the digest is there so that a later job of the same process has its own.
@functools.lru_cache(maxsize=1)
def _plan(directory: str, _: str) -> Plan:
    return Plan.from_json(files.read_json(Path(directory) / FOLDER / PLAN))


@functools.lru_cache(maxsize=1)
def _reader(name: str, options: str, _: str) -> protocol.Reader:
    return readers.reader_class(name)(argparse.Namespace(**json.loads(options)))


def screened(
    reader: protocol.Reader, task: Task, screen: Screen, limit: int, tally: "Tally", strict: bool = False
) -> Iterator[tuple[str, records.Example]]:
    """Yields (split, example) of what can be used; the tally counts everything.

    Raises:
      CommandError: see `Work`.
    """
    for unit in task.units:
        for item in reader.read(unit):
            if limit and tally.examples >= limit:
                return
            if isinstance(item, protocol.Found):
                item = _screened(screen, item)
            if isinstance(item, protocol.LeftOut):
                tally.leave_out(item)
                if strict:
                    raise CommandError(f"--strict: {item.reason}: {item.id}: {item.text}", DATA_ERROR)
                tally.refuse_foreign()
            else:
                tally.take(*item)
                yield item[0], item[1]


def _screened(screen: Screen, found: protocol.Found):
    where = f"{found.where}: " if found.where else ""
    try:
        example, notes = screen(found)
    except protocol.BadSample as error:
        return protocol.LeftOut(error.reason, found.example["id"], f"{where}{error}")
    return found.split, example, [(reason, text and f"{where}{text}") for reason, text in notes]


class Tally:
    """What a task has seen; see `report`."""

    def __init__(self, seed: int, captions: int):
        self.examples = 0
        self.left_out, self.notes = collections.Counter(), collections.Counter()
        self.named: list[tuple[str, str, str]] = []
        self.keys: set[str] = set()
        self._labels: set[str] = set()
        self._samples = hashlib.sha256()
        self._identities: list[int] = []
        self._captions = _Reservoir(captions, seed)

    def leave_out(self, item: protocol.LeftOut) -> None:
        """Counts a sample that cannot be used."""
        self.left_out[item.reason] += 1
        self.keys.update(map(_writable, item.keys))
        self._name(item.reason, item.id, item.text)

    def take(self, split: str, example: records.Example, notes: list[tuple[str, str]]) -> None:
        """Counts one that can."""
        self.examples += 1
        for reason, text in notes:
            self.notes[reason] += 1
            if text:
                self._name(reason, example["id"], text)
        if len(self._labels) <= MAX_LABELS:
            self._labels |= {region["label"] for region in example.get("regions", [])} - {""}
        self._samples.update(f"{example['id']}\n".encode() + hashlib.sha256(example["image"]).digest())
        self._identities.append(identities.identity(split, example["id"]))
        for caption in example["captions"]:
            self._captions.add((split, caption))

    def _name(self, reason: str, name: str, text: str) -> None:
        if len(self.named) < _MAX_NAMED:
            self.named.append((reason, _writable(name), _writable(text)))

    def refuse_foreign(self) -> None:
        """Raises CommandError where the first 1,000 samples all lack what the format is about."""
        missing = self.left_out["missing_key"]
        if not self.examples and missing >= _KEYS_AFTER and missing == sum(self.left_out.values()):
            raise CommandError(f"none of the first {missing} samples can be used: {self.foreign()}", DATA_ERROR)

    def foreign(self) -> str:
        """One line about samples that lack a key."""
        keys = ", ".join(sorted(self.keys)[:40]) or "none"
        return f"{self.named[0][2]}; the keys that they have: {keys}"

    def write(self, folder: Path, number: int) -> None:
        """Writes what is too long for a report: the captions kept, and 8 bytes of hash for each id."""
        with files.whole(folder / f"{number:05d}.captions.jsonl") as partial:
            lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in self._captions.kept())
            partial.write_text("".join(lines), encoding="utf-8")
        identities.write(folder, number, self._identities)

    def report(self) -> dict:
        """JSON: counts of examples, reasons and notes, who they were, labels, and the hash of the sample list."""
        return {
            "examples": self.examples,
            "left_out": dict(sorted(self.left_out.items())),
            "notes": dict(sorted(self.notes.items())),
            "named": self.named,
            "keys": sorted(self.keys),
            "labels": sorted(self._labels),
            "samples": self._samples.hexdigest(),
        }


def _writable(text: str) -> str:
    """One line that any file can hold."""
    return " ".join(text.encode(errors="replace").decode().split())


class _Reservoir:
    """A fair sample of a stream, of at most so many, in the order of the stream (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int):
        self._size, self._rng = size, np.random.default_rng(seed)
        self._seen = 0
        self._kept: list[tuple[int, object]] = []

    def add(self, item) -> None:
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append((self._seen, item))
        elif (place := int(self._rng.integers(self._seen))) < self._size:
            self._kept[place] = (self._seen, item)

    def kept(self) -> list:
        return [item for _, item in sorted(self._kept, key=lambda pair: pair[0])]
