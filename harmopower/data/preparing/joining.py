"""The last step of a job: many reports and shards become one data set with its tokenizer."""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import json
import os
from pathlib import Path

from harmopower.data import files, jobs, records, shards, tokenize
from harmopower.data.preparing import FOLDER, progress, tasks
from harmopower.data.preparing.plan import Plan
from harmopower.data.readers import protocol
from harmopower.errors import CommandError

SUMMARY = "prepared.json"
_NAMED = 20  # samples left out that the summary names; the reports have all


@dataclasses.dataclass(frozen=True)
class Finish:
    """What a data set needs beyond its shards.

    Attributes:
      tokenizer: `train`, or what `tokenize.Tokenizer.load` takes.
      vocab_size: of a trained one.
      max_bad: the share of samples left out above which the job fails.
    """

    tokenizer: str
    vocab_size: int
    max_bad: float


def join(directory, plan: Plan, reader: protocol.Reader, finish: Finish) -> dict:
    """Makes a data set of the finished tasks; may be killed and called again. Returns the summary.

    Raises:
      JobError: tasks are missing.
      CommandError: too many samples were left out, or all.
    """
    directory = Path(directory)
    folder = directory / FOLDER
    shown = functools.partial(progress.tracked, what=f"{directory}: joining the reports")
    reports = jobs.reports(folder, len(plan.tasks), shown)
    summary = _summary(plan, reports, reader, finish)
    _refuse_bad(summary, reports, finish.max_bad)
    name = reader.data_set
    found = _by_split(reports)
    for split, parts in found.items():
        for shard, final in zip(parts, shards.final_names(name, split, len(parts)), strict=True):
            _move(folder / shard.file, directory / final)
    _write_tokenizer(directory, folder, len(plan.tasks), finish)
    files.write_json(directory / SUMMARY, summary)
    files.remove_partial(directory)
    files.remove_partial(folder)
    shards.write_info(directory, name, found, reader.metadata(_labels(reports)), records.features())
    return summary


def _summary(plan: Plan, reports: list[dict], reader: protocol.Reader, finish: Finish) -> dict:
    examples, left_out, notes = collections.Counter(), collections.Counter(), collections.Counter()
    for report in reports:
        left_out.update(report["left_out"])
        notes.update(report["notes"])
        for shard in report["shards"]:
            examples[shard["split"]] += shard["examples"]
    return {
        "settings": plan.settings,
        "inputs": plan.inputs,
        "tokenizer": finish.tokenizer,
        "vocab_size": finish.vocab_size,
        "examples": dict(examples),
        "left_out": dict(sorted(left_out.items())),
        "notes": dict(sorted(notes.items())),
        "named": [named for report in reports for named in report["named"]][:_NAMED],
        "summary": reader.summary(),
    }


def _refuse_bad(summary: Mapping, reports: list[dict], max_bad: float) -> None:
    used, bad = sum(summary["examples"].values()), sum(summary["left_out"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary["left_out"].items())
    if not used:
        keys = sorted({key for report in reports for key in report["keys"]})
        seen = f"; keys of samples that lack one: {', '.join(keys[:40])}" if keys else ""
        first = f"; the first: {summary['named'][0][2]}" if summary["named"] else ""
        raise CommandError(f"none of the {bad} samples can be used ({reasons or 'the inputs are empty'}){first}{seen}")
    if bad > max_bad * (used + bad):
        raise CommandError(
            f"{bad} of {used + bad} samples ({bad / (used + bad):.2%}) were left out, more than --max-bad {max_bad} "
            f"allows: {reasons}",
            tasks.DATA_ERROR,
        )


def _by_split(reports: list[dict]) -> dict[str, list[shards.Shard]]:
    found: dict[str, list[shards.Shard]] = {}
    for report in reports:
        for shard in report["shards"]:
            found.setdefault(shard["split"], []).append(shards.Shard(**shard))
    return found


def _move(made: Path, final: Path) -> None:
    if made.exists():
        os.replace(made, final)
    elif not final.exists():
        raise jobs.JobError(f"the shard {made} is gone; run the same command with --force")


def _labels(reports: list[dict]) -> list[str]:
    labels = set().union(*(report["labels"] for report in reports))
    return sorted(labels) if len(labels) <= tasks.MAX_LABELS else []


def _write_tokenizer(directory: Path, folder: Path, count: int, finish: Finish) -> None:
    if finish.tokenizer == "train":
        with progress.working(f"{directory}: training the tokenizer"):
            tokenizer = tokenize.Tokenizer.train(_captions(folder, count), finish.vocab_size)
    else:
        tokenizer = tokenize.Tokenizer.load(finish.tokenizer, directory)
    with files.whole(directory / tokenize.FILE_NAME) as partial:
        tokenizer.save(partial)


def _captions(folder: Path, count: int) -> Iterator[str]:
    """Those of the split train; of all splits where there is none."""
    pairs = list(_kept(folder, count))
    wanted = {protocol.DEFAULT_SPLIT} & {split for split, _ in pairs} or {split for split, _ in pairs}
    return (caption for split, caption in pairs if split in wanted)


def _kept(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    for number in range(count):
        with open(folder / f"{number:05d}.captions.jsonl", encoding="utf-8") as file:
            # Not splitlines: JSON leaves characters in a caption that Python takes for ends of lines.
            yield from map(json.loads, file)
