"""The rows of a table: one JSON object a line for each run that is done, in a file that is kept with the code.

A row says what it is of: `run`, its `settings` and their hash, the `definition`. Rows of another definition than the
table has today stay in the file and are never mixed with the others.
"""

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import NamedTuple

from harmopower.errors import CommandError
from harmopower.experiments.table import Run
from harmopower.training.writers import write_file


class Sorted(NamedTuple):
    """Rows by what they are to a table.

    Attributes:
      current: name of the run -> its row, of today's definition.
      others: name of the run -> its newest row, where only rows of other definitions are there.
      strangers: names of runs that the table does not have.
    """

    current: dict[str, dict]
    others: dict[str, dict]
    strangers: list[str]


def read(path: str | os.PathLike) -> list[dict]:
    """All rows, oldest first; none where there is no file.

    Raises:
      CommandError: a line is no row; the text names it.
    """
    if not os.path.exists(path):
        return []
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found.append({"run": row["run"], "definition": row["definition"], **row})
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{path}, line {number} is no row of a table ({error}); mend or remove it") from error
    return found


def append(path: str | os.PathLike, row: Mapping) -> None:
    """Adds a row; the file is there as before or with the whole row, also where the machine stops in between."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):  # edited by hand
        text += "\n"
    write_file(os.fspath(path), text + json.dumps(row) + "\n")


def sort_out(found: list[dict], runs: Mapping[str, Run]) -> Sorted:
    """What rows are to the runs of a table; of several of one run and definition the newest counts."""
    current = {row["run"]: row for row in found if row["run"] in runs and row["definition"] == _of(runs, row)}
    others = {row["run"]: row for row in found if row["run"] in runs and row["run"] not in current}
    return Sorted(current, others, [name for name in dict.fromkeys(row["run"] for row in found) if name not in runs])


def _of(runs: Mapping[str, Run], row: dict) -> str:
    return runs[row["run"]].definition


def difference(row: dict, run: Run) -> str:
    """In what a row of another definition differs from the run as the table has it."""
    old, new = row.get("settings", {}), run.settings
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    told = [f"{key} {_shown(old, key)} there, {_shown(new, key)} here" for key in changed]
    return "; ".join(told) or "what it starts from is another"


def _shown(settings: dict, key: str) -> str:
    return repr(settings[key]) if key in settings else "the default"


def refuse_others(path, sorted_rows: Sorted, runs: Mapping[str, Run]) -> None:
    """Raises CommandError where rows are of another definition than the table's."""
    if not sorted_rows.others:
        return
    name, row = next(iter(sorted_rows.others.items()))
    raise CommandError(
        f"{path}: {len(sorted_rows.others)} rows are of another definition than the table's, such as {name}: "
        f"{difference(row, runs[name])}. Put the table back, or call what is new otherwise, or give --redefined: then "
        "they stay in the file, are left out, and their runs are made anew"
    )


def refuse_other_data(path, current: Mapping[str, dict]) -> None:
    """Raises CommandError where rows of one name were made with different data."""
    first: dict[str, dict] = {}
    for row in current.values():
        other = first.setdefault(row["data"], row)
        if row["data_fingerprint"] != other["data_fingerprint"]:
            raise CommandError(
                f"{path}: {other['run']} and {row['run']} were made with different data, fingerprints "
                f"{other['data_fingerprint']} and {row['data_fingerprint']}; they cannot stand in one table"
            )
