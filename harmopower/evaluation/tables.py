"""Results of one or several models as tables for people and papers: Markdown, CSV, JSON and rows for LaTeX."""

import csv
import io
import json
import os

from harmopower.evaluation import averages, report
from harmopower.evaluation.suite import Found

NAME = "table"


def write(folder: str, models: dict[str, Found]) -> list[str]:
    """Writes `table.md`, `table.csv`, `table.json` and `table.tex` and returns their paths.

    A row a result, a column a model, in percent; beside them the published rows where an average of theirs is there.
    The JSON has shares in 0..1 and what was left out.
    """
    columns = _columns(models)
    rows = list(dict.fromkeys(name for found in models.values() for name in found.metrics))
    cells = [[name, *(_percent(values.get(name)) for values in columns.values())] for name in rows]
    head = ["result, in percent", *columns]
    texts = {
        "md": _markdown(head, cells),
        "csv": _csv(head, cells),
        "tex": _latex(cells),
        "json": json.dumps({name: vars(found) for name, found in models.items()}, indent=2) + "\n",
    }
    paths = {os.path.join(folder, f"{NAME}.{ending}"): text for ending, text in texts.items()}
    for path, text in paths.items():
        report.write_text(path, text)
    return list(paths)


def _columns(models: dict[str, Found]) -> dict[str, dict[str, float]]:
    columns = {name: found.metrics for name, found in models.items()}
    measured = {name for values in columns.values() for name in values}
    there = {model: row for model, row in averages.published().items() if measured & row.keys()}
    return columns | {f"{model}, published": row for model, row in there.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _markdown(head: list[str], cells: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, rule, *cells])


def _csv(head: list[str], cells: list[list[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *cells])
    return file.getvalue()


def _latex(cells: list[list[str]]) -> str:
    return "".join(" & ".join(cell.replace("_", r"\_") for cell in row) + " \\\\\n" for row in cells)
