"""Tables of rows written by hand: which evaluation counts at equal steps and at equal FLOPs, and all their numbers."""

import csv
import io

import pytest

from harmopower.experiments import plotting, rows, tabulating
from tests.experiments import common
from tools import experiment

# variant -> seed -> boxes at each of the evaluations after steps 2, 4, 6
BOXES = {
    "clip": {0: (0.2, 0.4, 0.50), 1: (0.2, 0.4, 0.52), 2: (0.2, 0.4, 0.54)},
    "powerset": {0: (0.3, 0.55, 0.60), 1: (0.3, 0.52, 0.61), 2: (0.3, 0.55, 0.68)},
}
A_STEP = {"clip": 10.0, "powerset": 13.0, "tuned": 1.0, "cheap": 5.0}


def row(run, boxes):
    evaluations = [
        {"step": step, "model_flops": step * A_STEP[run.variant], "metrics": {"test/boxes/top1": value, "a_r1": 0.5}}
        for step, value in zip((2, 4, 6), boxes)
    ]
    return {
        "run": run.name,
        "variant": run.variant,
        "data": run.data,
        "seed": run.seed,
        "definition": run.definition,
        "settings": run.settings,
        "data_fingerprint": {"train": 1},
        "steps": 6,
        "model_flops": evaluations[-1]["model_flops"],
        "metrics": evaluations[-1]["metrics"],
        "evaluations": evaluations,
        "training": {"powerset/active": 0.25 * (run.seed + 1)} if run.variant == "powerset" else {},
        "made_with": {},
    }


@pytest.fixture
def made(tmp_path):
    table = common.load(tmp_path, **{"seeds=(0, 1)": "seeds=(0, 1, 2)"})
    runs = table.runs()
    found = {name: row(run, BOXES[run.variant][run.seed]) for name, run in runs.items()}
    return table, runs, found


def cells(page, section, variant, table=0):
    """The cells of a variant in the n-th table of a section."""
    part = next(part for part in page.split("\n## ") if part.startswith(section))
    found = [line for line in part.splitlines() if line.startswith(f"| `{variant}` |")]
    return [cell.strip() for cell in found[table].strip("|").split("|")]


def test_at_equal_steps_every_run_counts_as_it_ended(made):
    table, runs, found = made
    page = tabulating.markdown(table, "tiny", found, runs)
    assert "6 of 6 runs" in page and "Not there" not in page
    means = cells(page, "scenes, at equal steps", "powerset")
    assert means == ["`powerset`", "3", "6", "50.0 ± 0.0", "63.0 ± 4.4", "1.30", "0.5"]
    assert cells(page, "scenes, at equal steps", "clip")[3:] == ["50.0 ± 0.0", "52.0 ± 2.0", "1.00", "-"]
    difference = cells(page, "scenes, at equal steps", "powerset", table=1)
    assert difference == ["`powerset`", "3", "+0.0 [+0.0, +0.0]", "**+11.0 [+4.4, +17.6]**"]


def test_at_equal_flops_the_last_evaluation_within_the_budget_counts(made):
    """The baseline computes 60 in all; the other 52 after step 4 and 78 after step 6."""
    table, runs, found = made
    page = tabulating.markdown(table, "tiny", found, runs)
    section = "scenes, at equal counted FLOPs, those of `clip`"
    assert cells(page, section, "powerset") == ["`powerset`", "3", "4", "50.0 ± 0.0", "54.0 ± 1.7", "0.87", "0.5"]
    assert cells(page, section, "clip")[2] == "6"
    # .05, .00, .01: mean .02, s = sqrt(.0014 / 2), half = 4.302653 * s / sqrt(3) = .0657
    assert cells(page, section, "powerset", table=1)[-1] == "+2.0 [-4.6, +8.6]"
    assert "the evaluation nearest below what `clip` has computed" in page


def test_exactly_the_budget_is_within_it_and_nothing_within_it_is_no_line(made):
    table, _, found = made
    for each in found.values():
        if each["variant"] == "powerset":
            for evaluation in each["evaluations"]:
                evaluation["model_flops"] = evaluation["step"] * 15.0
    assert tabulating.lines(table, found, "scenes", tabulating.FLOPS)["powerset"].steps == [4]
    for each in found.values():
        if each["variant"] == "powerset":
            for evaluation in each["evaluations"]:
                evaluation["model_flops"] = 61.0
    assert list(tabulating.lines(table, found, "scenes", tabulating.FLOPS)) == ["clip"]


def test_what_is_missing_is_said_and_pairs_are_of_seeds_that_both_have(made):
    table, runs, found = made
    some = {name: each for name, each in found.items() if name not in ("scenes/clip/seed0", "scenes/powerset/seed1")}
    page = tabulating.markdown(table, "tiny", some, runs)
    assert "4 of 6 runs" in page and "**Not there yet: 2**, scenes/clip/seed0, scenes/powerset/seed1." in page
    assert cells(page, "scenes, at equal steps", "powerset", table=1)[1:] == ["1", "+0.0", "+14.0"]
    assert cells(page, "scenes, at equal counted", "powerset")[1] == "1"  # a seed without a budget is left out
    alone = {name: each for name, each in found.items() if each["variant"] == "powerset"}
    page = tabulating.markdown(table, "tiny", alone, runs)
    assert "No rows of `clip` yet." in page and "Against" not in page


def test_what_others_start_from_counts_as_it_ended(tmp_path):
    more = '"tuned": Variant({}, start="powerset")'
    table = common.load(tmp_path, more=more, **{'baselines=("clip",)': 'baselines=("tuned", "powerset")'})
    found = {name: row(run, (0.1, 0.2, 0.3)) for name, run in table.runs(seeds=(0,)).items()}
    lines = tabulating.lines(table, found, "scenes", tabulating.FLOPS)
    assert {name: line.steps for name, line in lines.items()} == {"powerset": [6], "tuned": [6]}  # clip: 20 above 6
    page = tabulating.markdown(table, "tiny", found, table.runs(seeds=(0,)))
    assert "Against `tuned`:" in page and "Against `powerset`:" in page


def test_csv_holds_every_number(made):
    table, _, found = made
    lines = list(csv.DictReader(io.StringIO(tabulating.as_csv(table, found))))
    assert len(lines) == 2 * 2 * 2  # comparisons, variants, measures
    (one,) = (
        line for line in lines if (line["at"], line["variant"], line["measure"]) == ("flops", "powerset", "boxes")
    )
    assert (one["data"], one["seeds"], one["step"], one["baseline"], one["pairs"]) == ("scenes", "3", "4", "clip", "3")
    numbers = [float(one[name]) for name in ("mean", "difference", "low", "high", "flops_share")]
    assert numbers == pytest.approx([0.54, 0.02, -0.0457, 0.0857, 52 / 60], abs=1e-4)


def test_the_command_writes_beside_the_rows_and_keeps_what_is_the_users(made, tmp_path, capsys):
    table, _, found = made
    path = tmp_path / "evidence" / "tiny.jsonl"
    words = [str(tmp_path / "tiny.py"), f"--rows={path}", "--tabulate"]
    assert experiment.main(words) == 2 and "has no rows of this table" in capsys.readouterr().err
    for each in found.values():
        rows.append(path, each)
    extra = table.runs(seeds=(7,))["scenes/clip/seed7"]
    rows.append(path, row(extra, BOXES["clip"][0]))  # a fourth seed, where a GPU was lent
    before = path.read_bytes()
    assert experiment.main(words) == 0
    page = path.with_suffix(".md").read_text()
    assert page.startswith(experiment.MARK + "# tiny") and "7 of 8 runs" in page
    assert path.read_bytes() == before and path.with_suffix(".csv").exists()
    assert experiment.main(words) == 0 and path.with_suffix(".md").read_text() == page
    path.with_suffix(".md").write_text("my own notes")
    assert experiment.main(words) == 2 and "is no table of ours" in capsys.readouterr().err
    assert path.with_suffix(".md").read_text() == "my own notes"


def test_rows_of_another_definition_are_not_tabulated(made, tmp_path, capsys):
    _, _, found = made
    path = tmp_path / "rows.jsonl"
    for each in found.values():
        rows.append(path, each)
    common.write_table(tmp_path, **{'"powerset": {': '"powerset": {"objective.powerset.zeta": 0.25, '})
    words = [str(tmp_path / "tiny.py"), f"--rows={path}", "--tabulate"]
    assert experiment.main(words) == 2
    assert "3 rows are of another definition" in capsys.readouterr().err and not path.with_suffix(".md").exists()
    assert experiment.main([*words, "--redefined"]) == 0
    assert capsys.readouterr().out.count("is of another definition and left out") == 3
    page = path.with_suffix(".md").read_text()
    assert "3 of 6 runs" in page and "| `powerset`" not in page


def test_the_picture_shows_intervals(made):
    pytest.importorskip("matplotlib")
    table, _, found = made
    picture = plotting.figure(table, found)
    boxes = picture.axes[1]
    assert boxes.get_title() == "boxes, scenes" and len(boxes.containers) == 2
    steps, flops = (container.lines[0].get_xdata()[0] for container in boxes.containers)
    assert (steps, flops) == pytest.approx((11.0, 2.0))
    (bar,) = boxes.containers[0].lines[2][0].get_segments()
    assert sorted(bar[:, 0]) == pytest.approx([4.4276, 17.5724], abs=1e-3)
    alone = {name: each for name, each in found.items() if each["variant"] == "powerset"}
    assert plotting.figure(table, alone) is None
