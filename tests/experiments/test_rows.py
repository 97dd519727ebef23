"""Rows are whole or not there, and those of another definition are named and kept apart."""

import os

import pytest

from harmopower.errors import CommandError
from harmopower.experiments import rows
from tests.experiments import common


def row_of(run, **more):
    return {"run": run.name, "data": run.data, "definition": run.definition, "settings": run.settings, **more}


def test_rows_are_appended_to_what_is_there(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert rows.read(path) == []
    rows.append(path, {"run": "a", "definition": "1"})
    path.write_text(path.read_text().rstrip("\n"))  # as an editor may leave it
    rows.append(path, {"run": "b", "definition": "2"})
    assert [row["run"] for row in rows.read(path)] == ["a", "b"] and path.read_text().count("\n") == 2
    assert os.listdir(path.parent) == ["rows.jsonl"]


@pytest.mark.parametrize("line", ['{"run": "b"', '{"run": "b"}', "[]", ""])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"run": "a", "definition": "1"}}\n{line}\n')
    with pytest.raises(CommandError, match=r"rows.jsonl, line 2 is no row of a table"):
        rows.read(path)


def test_rows_of_another_definition_are_kept_apart(tmp_path):
    old = common.load(tmp_path).runs()
    new = common.load(tmp_path, **{'"powerset": {': '"powerset": {"objective.powerset.zeta": 0.25, '}).runs()
    found = [row_of(run) for run in old.values()] + [{"run": "scenes/gone/seed0", "definition": "x"}]
    assert rows.sort_out(found, old).others == {} and len(rows.sort_out(found, old).current) == 4
    split = rows.sort_out(found, new)
    assert list(split.current) == ["scenes/clip/seed0", "scenes/clip/seed1"]
    assert list(split.others) == ["scenes/powerset/seed0", "scenes/powerset/seed1"]
    assert split.strangers == ["scenes/gone/seed0"]
    words = (
        "rows.jsonl: 2 rows are of another definition than the table's, such as scenes/powerset/seed0: "
        "objective.powerset.zeta the default there, 0.25 here. Put the table back"
    )
    with pytest.raises(CommandError, match=words):
        rows.refuse_others("rows.jsonl", split, new)
    again = rows.sort_out([*found, *(row_of(run) for run in new.values())], new)  # made anew beside them
    assert len(again.current) == 4 and again.others == {}
    rows.refuse_others("rows.jsonl", again, new)


def test_rows_of_different_data_do_not_mix(tmp_path):
    runs = common.load(tmp_path).runs()
    found = {name: row_of(run, data_fingerprint={"train": 1}) for name, run in runs.items()}
    rows.refuse_other_data("rows.jsonl", found)
    found["scenes/powerset/seed1"]["data_fingerprint"] = {"train": 2}
    with pytest.raises(CommandError, match="seed0 and scenes/powerset/seed1 were made with different data"):
        rows.refuse_other_data("rows.jsonl", found)
