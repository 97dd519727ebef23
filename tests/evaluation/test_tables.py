"""Tables of several models, with the published rows where theirs is measured too."""

import csv
import json

from harmopower.evaluation import tables
from harmopower.evaluation.suite import Found


def test_four_formats_of_one_table(tmp_path):
    ours = Found({"average/zero_shot_17": 0.4321, "food101/acc1": 0.5}, left_out={"dtd": "not on disk"})
    written = tables.write(str(tmp_path / "new"), {"runs/a": ours, "hf:b/c": Found({"food101/acc1": 0.25})})
    markdown, separated, latex, stored = (
        (tmp_path / "new" / f"table.{end}").read_text() for end in ("md", "csv", "tex", "json")
    )
    assert len(written) == 4 and len(list((tmp_path / "new").iterdir())) == 4
    head, average, food = csv.reader(separated.splitlines())
    assert head[1:3] == ["runs/a", "hf:b/c"] and "PowerCLIP-S, published" in head
    assert (
        average[:3] == ["average/zero_shot_17", "43.2", "-"] and average[head.index("PowerCLIP-S, published")] == "42.2"
    )
    assert food[:4] == ["food101/acc1", "50.0", "25.0", "-"]
    assert "| food101/acc1 | 50.0 | 25.0 |" in markdown and markdown.splitlines()[1].startswith("| --- | ---: |")
    assert latex.splitlines()[0].startswith(r"average/zero\_shot\_17 & 43.2 & - &") and latex.endswith("\\\\\n")
    assert json.loads(stored)["runs/a"]["metrics"]["food101/acc1"] == 0.5
    tables.write(str(tmp_path), {"a": Found({"food101/acc1": 0.25})})
    assert "published" not in (tmp_path / "table.md").read_text()
