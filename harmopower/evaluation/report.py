"""The results of an evaluation as a file and as a table."""

import dataclasses
import json
import os

from rich.console import Console
from rich.table import Table

from harmopower.evaluation.suite import Found


def write(workdir: str, step: int, found: Found) -> None:
    """Writes `eval.json`: `{"step", "metrics", "chance", "left_out"}`; replaced at once, never half written."""
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "eval.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"step": step, **dataclasses.asdict(found)}, file, indent=2)
        file.write("\n")
    os.replace(path + ".new", path)


def show(found: Found, step: int, console: Console | None = None) -> None:
    """Prints the table, and below it what was left out, a line each."""
    console = console or Console()
    console.print(table(found, step))
    for name, reason in found.left_out.items():
        console.print(f"left out: {name}: {reason}", soft_wrap=True, highlight=False, markup=False)


def table(found: Found, step: int) -> Table:
    """The results in percent, a column a split, each with its chance level beside it."""
    splits = list(dict.fromkeys(name.split("/")[0] for name in found.metrics))
    rows = dict.fromkeys(name.split("/", 1)[1] for name in found.metrics)
    result = Table(title=f"Evaluation of step {step}, in percent")
    result.add_column("metric")
    for split in splits:
        result.add_column(split, justify="right")
        result.add_column("chance", justify="right", style="dim")
    for row in rows:
        names = [f"{split}/{row}" for split in splits]
        result.add_row(row, *(_percent(values, name) for name in names for values in (found.metrics, found.chance)))
    return result


def _percent(values: dict[str, float], name: str) -> str:
    return f"{100 * values[name]:.1f}" if name in values else "-"
