"""Metric files: what they hold, and that a resumed run reads as one uninterrupted run."""

import csv
import json
import tracemalloc

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


def test_a_resumed_run_reads_as_one(tmp_path):
    """Rows of several kinds and steps that come twice, whatever a kill left of either file."""
    rows = [(1, {"a": 1.0}), (2, {"a": 2.0}), (2, {"evaluation/b": 0.5}), (3, {"a": 3.0}), (4, {"a": 4.0, "c": 1.0})]
    write(tmp_path / "whole", 0, rows)
    expected = [(tmp_path / "whole" / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")]
    for number, csv_end in enumerate((None, -1, -20, 9, 0)):
        workdir = tmp_path / str(number)
        write(workdir, 0, rows)
        (workdir / "metrics.csv").write_bytes(expected[1][:csv_end])
        write(workdir, 2, rows[3:])
        assert [(workdir / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")] == expected, csv_end


def test_a_row_costs_the_same_among_many(tmp_path):
    count, row = 20_000, {f"loss/{index}": 1 / 3 for index in range(5)}
    with open(tmp_path / "metrics.jsonl", "w") as lines, open(tmp_path / "metrics.csv", "w", newline="") as table:
        table.write(",".join(["step", *row]) + "\r\n")
        for step in range(count):
            lines.write(json.dumps({"step": step, **row}) + "\n")
            table.write(",".join(map(str, (step, *row.values()))) + "\r\n")
    tracemalloc.start()
    writer = writers.MetricWriter(str(tmp_path), count - 10, tensorboard=False)
    writer.write(count, row)
    inode = (tmp_path / "metrics.csv").stat().st_ino
    writer.write(count + 1, row)
    assert (tmp_path / "metrics.csv").stat().st_ino == inode  # appended to
    writer.write(count + 2, {"evaluation/new": 0.5})
    writer.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6  # the rows alone are 3 MB as text, and far more as dictionaries
    with open(tmp_path / "metrics.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    assert last["evaluation/new"] == "0.5" and last["step"] == str(count + 2)
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == count - 9 + 3


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_wandb_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    names = []
    for step in (1, 2):
        run = writers.start_wandb(str(tmp_path), {"seed": 0})
        writer = writers.MetricWriter(str(tmp_path), step - 1, tensorboard=False, wandb=run)
        writer.write(step, {"loss/total": 1.0})
        writer.close()
        names.append((run.id, run.resumed or run.settings.resume))
        run.finish()
    assert names[0][0] == names[1][0] == (tmp_path / "wandb_id").read_text() and names[1][1] == "allow"
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{names[0][0]}"))) == 2


def test_the_first_line_claims_no_rate(capsys):
    progress = writers.Progress(4, 0)
    progress.update(1, {"loss/total": 2.0, "examples_per_second": 0.0}, None)
    progress.update(2, {"loss/total": 1.5, "examples_per_second": 8.0}, 65)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 1/4  loss 2.0000", "step 2/4  loss 1.5000  8 examples/s  1:05 left"]
