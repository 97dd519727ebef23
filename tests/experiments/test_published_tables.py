"""The tables of `configs/experiments/`: every run is valid, and no two are the same under two names."""

from pathlib import Path

import pytest

from harmopower.experiments import table as tables
from tools import prepare

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in (ROOT / "configs" / "experiments").glob("*.py")}


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_run_is_valid_and_another_one(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = tables.load(FILES[name])
    runs = table.runs(seeds=(0,))
    assert len(table.seeds) >= 3 and {each.variant for each in runs.values()} == set(table.variants)
    for data in table.data:
        definitions = [each.definition for each in runs.values() if each.data == data]
        assert len(set(definitions)) == len(definitions) == len(table.variants_on(data))
    told = {"evidence": "evidence.md", "tradeoff": "region.md", "coco_ablation": "finetuning.md"}[name]
    assert name in (ROOT / "docs" / told).read_text()


def test_the_data_are_made_by_commands_that_are_understood():
    for path in FILES.values():
        for data in tables.load(path).data.values():
            words = data.prepare or data.by_hand.partition("python -m tools.prepare ")[2].partition(";")[0]
            options = prepare._parser().parse_args(words.split())
            assert str(options.output) in (data.changes.get("data.source"), "runs/data/scenes")


def test_the_control_differs_from_the_powerset_by_the_powerset_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = tables.load(FILES["evidence"]).runs(seeds=(0,))
    control, powerset = (runs[f"single/{name}/seed0"].settings for name in ("triplet", "powerset"))
    differ = {key for key in control.keys() | powerset.keys() if control.get(key) != powerset.get(key)}
    assert "objective.global_triplet.weight" in differ and "objective.powerset.weight" in differ
    assert all(key.startswith(("objective.global_triplet.", "objective.powerset.")) for key in differ)
