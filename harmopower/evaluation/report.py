"""The results of an evaluation as a file and as a table."""

import csv
import dataclasses
import io
import json
import os

from rich.console import Console
from rich.table import Table

from harmopower.evaluation.suite import Found as Found

FILE = "eval.json"
TABLES = "tables"
_MANY = 4  # splits or sets, above which they are the table's rows


def write(workdir: str, step: int, found: Found, tasks: dict[str, str] | None = None) -> None:
    """Writes `eval.json`: `{"step", "metrics", "chance", "left_out", "partial", "notes", "tables", "tasks"}`.

    Each of the tables stands in a file of its own too, such as `tables/coco_boxes.clipself.crop.confusions.csv`.

    Args:
      tasks: name -> hash of those whose results can be used again, see `kept`.
    """
    write_json(os.path.join(workdir, FILE), {"step": step, **dataclasses.asdict(found), "tasks": tasks or {}})
    for name, rows in found.tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(os.path.join(workdir, TABLES, f"{name.replace('/', '.')}.csv"), text.getvalue())


def write_json(path, value) -> None:
    """Writes a file that is replaced at once, never half written, and the folder that it is in."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path, text: str) -> None:
    """As `write_json`, any text."""
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def show(found: Found, step: int, console: Console | None = None) -> None:
    """Prints the table, and below it what was left out, a line each."""
    console = console or Console()
    console.print(table(found, step))
    for title in ("notes", "partial", "left_out"):
        for name, text in getattr(found, title).items():
            words = {"notes": "", "partial": "not comparable: ", "left_out": "left out: "}[title]
            console.print(f"{words}{name}: {text}", soft_wrap=True, highlight=False, markup=False)


def table(found: Found, step: int) -> Table:
    """The results in percent, each with its chance level beside it; a column a split where there are few."""
    splits = list(dict.fromkeys(name.split("/")[0] for name in found.metrics))
    if len(splits) > _MANY:
        return _long_table(found, step)
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


def _long_table(found: Found, step: int) -> Table:
    result = Table(title=f"Evaluation of step {step}, in percent")
    result.add_column("metric")
    result.add_column("", justify="right")
    result.add_column("chance", justify="right", style="dim")
    for name in found.metrics:
        result.add_row(name, _percent(found.metrics, name), _percent(found.chance, name))
    return result


def _percent(values: dict[str, float], name: str) -> str:
    return f"{100 * values[name]:.1f}" if name in values else "-"
