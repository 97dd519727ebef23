"""The file and the table of the results."""

import io
import json

import rich.console

from harmopower.evaluation import report
from harmopower.evaluation.suite import Found


def test_file_and_table(tmp_path):
    name, why = "test/boxes/top1", {"test_unseen": "the data set has no such split"}
    found = Found({name: 0.5}, {name: 1 / 64}, why)
    report.write(tmp_path / "run", 7, found)
    report.write(tmp_path / "run", 8, found)
    stored = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert stored["step"] == 8 and stored["metrics"] == found.metrics and stored["chance"] == found.chance
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["eval.json"]
    with rich.console.Console(width=100, file=io.StringIO(), record=True) as console:
        report.show(found, 8, console)
    text = console.export_text()
    row = next(line for line in text.splitlines() if "boxes/top1" in line)
    assert "50.0" in row and "1.6" in row and "step 8" in text
    assert text.splitlines()[-1] == "left out: test_unseen: the data set has no such split"
