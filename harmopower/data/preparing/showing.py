"""What a user sees of a job: what it would read, and what came of it."""

import collections
import itertools
import sys

from harmopower.data import records
from harmopower.data.preparing import tasks
from harmopower.data.preparing.plan import Plan
from harmopower.data.preparing.screening import Screen, Settings
from harmopower.data.readers import protocol

_SHOWN = 3


def dry_run(reader: protocol.Reader, plan: Plan, settings: Settings) -> None:
    """Prints what would be read and the first three examples; writes nothing."""
    by_split = collections.defaultdict(list)
    for task in plan.tasks:
        by_split[task.split or "(as each sample says)"].append(task)
    for split, group in by_split.items():
        units = [unit for task in group for unit in task.units]
        size = sum(task.bytes for task in group)
        paths = list(dict.fromkeys(unit.path for unit in units))
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        print(f"split {split}: {paths[0]}{more}, {size / 2**20:.1f} MiB to read in {len(group)} tasks")
    tally = tasks.Tally(seed=0, captions=1)
    found = itertools.chain.from_iterable(
        tasks.screened(reader, task, Screen(settings), settings.limit, tally) for task in plan.tasks
    )
    for split, example in itertools.islice(found, _SHOWN):
        print(_described(split, example))
    _print_named(tally.named)
    if not tally.examples:
        print("no example can be used")


def _described(split: str, example: records.Example) -> str:
    width, height = protocol.image_size(example["image"])
    captions = example["captions"]
    lines = [f"{split} {example['id']}: image {width} x {height}, {len(example['image'])} bytes"]
    lines += [f"  caption {number}: {caption}" for number, caption in enumerate(captions)]
    for phrase in example.get("phrases", []):
        lines.append(f"  phrase {phrase['label']}: {captions[phrase['caption']][phrase['start'] : phrase['end']]}")
    for region in example.get("regions", []):
        box = ", ".join(f"{float(value):.3f}" for value in region["box"])
        named = captions[region["caption"]][region["start"] : region["end"]] if region["caption"] >= 0 else ""
        words = {"span": named, "text": region["text"], "label": region["label"]}
        told = " ".join(f"{kind} {text!r}" for kind, text in words.items() if text)
        lines.append(f"  box y0, x0, y1, x1 = {box} {told}")
    return "\n".join(lines)


def report(output, summary: dict) -> None:
    """Prints what a job has made: the samples left out to stderr, by reason, and the counts."""
    _print_named(summary["named"])
    used, bad = sum(summary["examples"].values()), sum(summary["left_out"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary["left_out"].items())
    print(f"{used} of {used + bad} samples used, {bad} left out" + (f": {reasons}" if reasons else ""))
    if summary["notes"]:
        print("within samples: " + ", ".join(f"{reason} {count}" for reason, count in summary["notes"].items()))
    for line in summary["summary"]:
        print(line)
    sizes = ", ".join(f"{split} {count}" for split, count in summary["examples"].items())
    print(f"{output}: {sizes} examples, tokenizer {summary['tokenizer']}; reports in {output}/preparing")


def _print_named(named) -> None:
    for reason, name, text in named:
        print(f"{reason}: {name}: {text}", file=sys.stderr)
