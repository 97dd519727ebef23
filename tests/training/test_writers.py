"""Metric files: what they hold, and that a resumed run reads as one uninterrupted run."""

import csv
import json

import pytest

from harmopower.training import writers


def write(workdir, start, rows):
    writer = writers.MetricWriter(str(workdir), start)
    for step, metrics in rows:
        writer.write(step, metrics)
    writer.close()


def read_csv(workdir):
    with open(workdir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_land_in_all_three_files(tmp_path):
    write(tmp_path, 0, [(1, {"loss/total": 2.0}), (2, {"loss/total": 1.0, "evaluation/r1": 0.5})])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss/total": 2.0}, {"step": 2, "loss/total": 1.0, "evaluation/r1": 0.5}]
    assert [row["evaluation/r1"] for row in read_csv(tmp_path)] == ["", "0.5"]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_resuming_drops_the_steps_that_come_again(tmp_path):
    write(tmp_path, 0, [(step, {"loss/total": float(step)}) for step in (1, 2, 3)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss')  # a kill in the middle of a line
    write(tmp_path, 2, [(3, {"loss/total": 30.0})])
    assert [row["loss/total"] for row in writers.read_metrics(str(tmp_path))] == [1.0, 2.0, 30.0]
    assert [row["step"] for row in read_csv(tmp_path)] == ["1", "2", "3"]


def test_non_finite_metrics_are_named():
    writers.check_finite(3, {"loss/total": 1.0})
    with pytest.raises(writers.NonFiniteError, match="step 3: loss/powerset = nan, gradient_norm = inf"):
        writers.check_finite(
            3, {"loss/global_contrastive": 1.0, "loss/powerset": float("nan"), "gradient_norm": float("inf")}
        )
