"""Overlays made task by task: a plan, tasks that a kill cannot spoil (`data/jobs.py`), and a join at the end.

While it is being made, the folder of an overlay holds `making/`: `plan.json`, and for each task a report and a file of
lines. The join puts the lines of a split into one file; `info.json` comes last. So what is made in shares, by workers
or at once has the same bytes.
"""

import argparse
import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import itertools
from pathlib import Path
import time

from harmopower.data import annotations, files, jobs, records, shards
from harmopower.data.annotations import overlays, protocol
from harmopower.data.preparing import plan as plans
from harmopower.data.preparing import progress
from harmopower.data.readers.protocol import Unit, fingerprint

FOLDER, PLAN = "making", "plan.json"
_NAMED = 20  # that the info names; the reports have more
_ONE_FILE = 2**63


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an overlay depends on; JSON-able.

    Attributes:
      kind: one of `annotations.KINDS`.
      options: of that kind.
      mode: `replace` or `add`, of the lists that it makes.
      under: overlays that are laid over the records before they are annotated, comma-separated.
      limit: records of each split, for a try; 0 for all.
    """

    kind: str
    options: dict
    mode: str
    under: str = ""
    limit: int = 0

    def annotator(self) -> protocol.Annotator:
        """A new one."""
        return annotations.annotator_class(self.kind)(argparse.Namespace(**self.options))


def make_plan(directory, settings: Settings) -> plans.Plan:
    """The tasks that annotate a data set: ranges of the records of each split.

    Raises:
      DataSourceError, AnnotationError: there is no data set, or no overlay of `under`.
    """
    annotator = settings.annotator()
    inputs = fingerprint(annotator.inputs())[1]
    units = itertools.chain.from_iterable(
        _units(directory, split, count, settings, annotator.records_per_task, inputs)
        for split, count in records.splits(directory).items()
    )
    return plans.make(units, dataclasses.asdict(settings), shard_bytes=0)


def _units(directory, split: str, count: int, settings: Settings, size: int, inputs: str) -> Iterator[Unit]:
    found = overlays.fingerprint(directory, split, settings.under)
    mark = f"{found['sample']}-{found.get('annotations', '')}-{inputs}"
    wanted = min(count, settings.limit or count)
    for start in range(0, wanted, size):
        stop = min(start + size, wanted)
        yield Unit("", found["bytes"] * (stop - start) // count, split, (start, stop), mark)


@dataclasses.dataclass(frozen=True)
class Work:
    """A picklable `jobs.Work`: `folder` is the overlay's, all else is in its plan."""

    directory: str
    folder: str
    plan: str

    def __call__(self, number: int) -> dict:
        """Writes the lines of a task and returns its report."""
        making = Path(self.folder) / FOLDER
        plan = _read_plan(making, self.plan)
        settings, task = Settings(**plan.settings), plan.tasks[number]
        part = protocol.Part(self.directory, task.split, *task.units[0].place)
        annotator, started = settings.annotator(), time.process_time()
        with shards.Writer(making, f"{number:05d}", task.split, _ONE_FILE) as writer:
            for line in _lines(annotator, part, settings.under):
                writer.add(line)
        return {
            "shards": [dataclasses.asdict(shard) for shard in writer.shards],
            "examples": part.stop - part.start,
            "seconds": time.process_time() - started,
            "counts": dict(annotator.counts),
            "left_out": dict(annotator.left_out),
            "named": annotator.named,
        }


@functools.lru_cache(maxsize=1)
def _read_plan(making: Path, _: str) -> plans.Plan:
    return plans.Plan.from_json(files.read_json(making / PLAN))


def _lines(annotator: protocol.Annotator, part: protocol.Part, under: str) -> Iterator[bytes]:
    source = overlays.read(part.directory, part.split, under)
    waiting: collections.deque[records.Example] = collections.deque()

    def watched() -> Iterator[records.Example]:
        for index in range(part.start, part.stop):
            example = source[index]
            waiting.append({name: example[name] for name in ("id", "captions")})
            yield example

    for lists in annotator.annotate(part, watched()):
        example = waiting.popleft()
        lists = _sound(annotator, example, lists)
        yield overlays.encode(example["id"], overlays.checksum(example["captions"]), lists)
    if waiting:
        raise RuntimeError(f"{type(annotator).__module__} gave nothing for {len(waiting)} records: a bug there")


def _sound(annotator: protocol.Annotator, example: records.Example, lists: Mapping) -> Mapping:
    """What a record could not be trained with is left out: nothing that is laid over the data makes them bad."""
    # Whether the record itself is sound, the data set's own check says.
    problems = [problem for problem in records.examine({**example, **lists}) if not problem.code.endswith("caption")]
    if not problems:
        return lists
    annotator.leave_out(problems[0].code, example["id"], problems[0].text)
    return {name: [] for name in lists}


def join(directory, name: str, plan: plans.Plan) -> dict:
    """Makes an overlay of the finished tasks; may be killed and called again. Returns its info.

    Raises:
      JobError: tasks are missing.
    """
    folder = overlays.folder(directory, name)
    reports = jobs.reports(folder / FOLDER, len(plan.tasks))
    settings = Settings(**plan.settings)
    tasks = collections.defaultdict(list)
    for task, report in zip(plan.tasks, reports, strict=True):
        tasks[task.split] += [folder / FOLDER / shard["file"] for shard in report["shards"]]
    parts = {split: _join_split(folder, split, paths) for split, paths in tasks.items()}
    info = {
        "kind": settings.kind,
        "modes": dict.fromkeys(settings.annotator().makes, settings.mode),
        "limit": settings.limit,
        "plan": plan.digest,
        "settings": plan.settings,
        "splits": parts,
        **_totals(reports),
    }
    files.remove_partial(folder)
    files.remove_partial(folder / FOLDER)
    files.write_json(folder / overlays.INFO, info)
    remove_parts(folder)
    return info


def remove_parts(folder: Path) -> None:
    """Removes the lines of the tasks, which a finished overlay does not need; a kill may have left them there."""
    for path in (folder / FOLDER).glob("*.array_record"):
        path.unlink(missing_ok=True)


def _join_split(folder: Path, split: str, paths: list[Path]) -> dict:
    """One file of all: a reader of many small ones would open one for nearly every record."""
    name = overlays.line_file(split)
    count = 0
    with shards.writing(folder / name) as writer:
        for line in itertools.chain.from_iterable(map(shards.read, progress.tracked(paths, f"joining {split}"))):
            writer.write(line)
            count += 1
    return {"file": name, "examples": count, "sha256": files.sha256(folder / name)}


def _totals(reports: list[dict]) -> dict:
    totals = {key: collections.Counter() for key in ("counts", "left_out")}
    for report in reports:
        for key, total in totals.items():
            total.update(report[key])
    found = {key: dict(sorted(total.items())) for key, total in totals.items()}
    return found | {"named": [named for report in reports for named in report["named"]][:_NAMED]}
