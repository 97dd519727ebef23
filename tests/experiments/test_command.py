"""`tools.experiment` as a user meets it: refused before anything runs, listed, really run, stopped, killed, resumed."""

import json
import signal
import subprocess
import sys
import time

import pytest

from harmopower import workdir as workdirs
from harmopower.experiments import rows
from harmopower.training import writers
from harmopower.training.checkpoints import Checkpoints
from tests.experiments import common
from tools import experiment, prepare


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    sizes = ["--train=48", "--test=16", "--test-unseen=8", "--image-size=32", "--workers=1"]
    assert prepare.main(["scenes", f"--output={folder}", *sizes]) == 0
    return folder


def words(table, folder, *more):
    return [str(table), f"--rows={folder / 'rows.jsonl'}", f"--workdir={folder / 'runs'}", *more]


def refused(capsys, arguments) -> str:
    assert experiment.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_unknown_keys_are_refused_and_nothing_is_written(tmp_path, capsys):
    table = common.write_table(tmp_path, more='"x": {"objective.lexeme.weight": 1.0}')
    before = sorted(tmp_path.iterdir())
    error = refused(capsys, words(table, tmp_path))
    assert "scenes/x/seed0: config.objective.lexeme.weight is no setting; did you mean" in error
    assert sorted(tmp_path.iterdir()) == before
    good = common.write_table(tmp_path)
    assert "config.optimiser.b1 is no setting" in refused(capsys, words(good, tmp_path, "--set", "optimiser.b1=1"))
    assert "write KEY=VALUE" in refused(capsys, words(good, tmp_path, "--set", "seed"))
    assert "'many' is no value of config.batch_size" in refused(
        capsys, words(good, tmp_path, "--set", "batch_size=many")
    )
    assert "fits no run; they are called as scenes/clip/seed0" in refused(capsys, words(good, tmp_path, "--only=clip"))
    assert "must be below config.total_steps 2" in refused(capsys, words(good, tmp_path, "--steps=2"))
    assert sorted(tmp_path.iterdir()) == before


def test_missing_data_are_named_with_what_makes_them(tmp_path, capsys):
    source = tmp_path / "none"
    by_hand = {f'Data({{"data.source": {str(source)!r}}})': f'Data({{"data.source": {str(source)!r}}}, by_hand="buy")'}
    table = common.write_table(tmp_path, source, **by_hand)
    error = refused(capsys, words(table, tmp_path))
    assert f"data are missing; make {source}: buy. Or leave scenes out with --only" in error
    assert not (tmp_path / "runs").exists()


def test_two_commands_on_one_table_are_refused(tmp_path, source, capsys):
    table = common.write_table(tmp_path, source)
    with workdirs.Lock(str(tmp_path), "rows.jsonl.lock") as lock:
        lock.take()
        error = refused(capsys, words(table, tmp_path))
        assert f"--rows {tmp_path / 'rows.jsonl'} is in use by process" in error and "give another --rows" in error
        assert experiment.main(words(table, tmp_path, "--dry-run")) == 0  # looking disturbs nobody
    assert not (tmp_path / "runs").exists()


def test_rows_of_other_definitions_and_other_data_are_refused(tmp_path, source, capsys):
    table = common.write_table(tmp_path, source)
    runs = common.load(tmp_path, source=source).runs()
    path, clip = tmp_path / "rows.jsonl", runs["scenes/clip/seed0"]
    row = {"run": clip.name, "data": "scenes", "definition": "old", "settings": {**clip.settings, "batch_size": 64}}
    rows.append(path, row | {"data_fingerprint": {}})
    before = path.read_bytes()
    error = refused(capsys, words(table, tmp_path))
    assert "1 rows are of another definition" in error and "batch_size 64 there, 8 here" in error
    assert experiment.main(words(table, tmp_path, "--dry-run")) == 0
    listed = capsys.readouterr().out
    assert "scenes/clip/seed0                        of another definition: batch_size 64 there, 8 here" in listed
    assert listed.endswith("rows.jsonl: 1 of another definition, 3 missing\n")
    rows.append(
        path, row | {"definition": clip.definition, "settings": clip.settings, "data_fingerprint": {"train": 1}}
    )
    assert "was made with data of the fingerprint {'train': 1}" in refused(capsys, words(table, tmp_path))
    assert path.read_bytes().startswith(before) and not (tmp_path / "runs").exists()


def test_reduced_rows_stay_away_from_those_of_the_table(tmp_path, monkeypatch, capsys):
    table = common.write_table(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = {}
    for more in ((), ("--set", "mesh.platform=cpu"), ("--steps", "9"), ("--set", "optimizer.b1=0.5")):
        assert experiment.main([str(table), "--dry-run", *more]) == 0
        shown[more] = capsys.readouterr().out.splitlines()[-1].split(":")[0]
    whole, where, *others = shown.values()
    assert whole == where == "docs/evidence/tiny.jsonl"
    assert len(set(others)) == 2 and all(path.startswith("runs/experiments/tiny/rows-") for path in others)


def start(table, folder):
    command = [sys.executable, "-m", "tools.experiment", *words(table, folder, "--jobs=2")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_a_step(folder, variant, step, process):
    deadline = time.time() + 300
    while time.time() < deadline and process.poll() is None:
        for workdir in (folder / "runs" / "scenes" / variant).glob("seed0-*/"):
            if max(Checkpoints(str(workdir)).steps(), default=0) >= step:
                return
        time.sleep(0.1)
    pytest.fail(f"no step {step}: {process.poll()}")


@pytest.mark.slow
def test_a_table_is_run_stopped_killed_and_finished(source, tmp_path, capsys):
    table = common.write_table(tmp_path, source)
    config = tmp_path / "small.py"
    config.write_text(config.read_text().replace("total_steps=4", "total_steps=60").replace("steps=2", "steps=20"))
    first = start(table, tmp_path)
    wait_for_a_step(tmp_path, "powerset", 3, first)
    first.send_signal(signal.SIGTERM)
    told, error = first.communicate(timeout=120)
    assert first.returncode == 75 and "stopped; the same command goes on" in told, (told, error)
    second = start(table, tmp_path)
    wait_for_a_step(tmp_path, "powerset", 10, second)
    second.kill()
    second.communicate()
    assert experiment.main(words(table, tmp_path, "--jobs=2")) == 0  # what the kill left running is waited for
    assert capsys.readouterr().out.endswith("rows.jsonl: 4 of 4 rows are there\n")
    found = {row["run"]: row for row in rows.read(tmp_path / "rows.jsonl")}
    assert len(found) == 4 and len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4
    for row in found.values():
        check_row(row)
        (workdir,) = (tmp_path / "runs" / "scenes" / row["variant"]).glob(f"seed{row['seed']}-*/")
        steps = [each["step"] for each in writers.read_metrics(str(workdir)) if "loss/total" in each]
        assert steps == list(range(1, 61))
    clip, powerset = found["scenes/clip/seed0"], found["scenes/powerset/seed0"]
    assert powerset["model_flops"] > clip["model_flops"] and "powerset/active" in powerset["training"]
    assert clip["metrics"] != found["scenes/clip/seed1"]["metrics"]
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert experiment.main(words(table, tmp_path)) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == before and "begins" not in capsys.readouterr().out


def check_row(row):
    """A row is JSON of numbers, with evaluations that count up to the run's end."""
    steps = [each["step"] for each in row["evaluations"]]
    assert row["steps"] == steps[-1] == 60 and steps == sorted({*steps} & {20, 40, 60})  # a stop may cut one short
    counted = [each["model_flops"] / each["step"] for each in row["evaluations"]]
    assert row["model_flops"] == row["evaluations"][-1]["model_flops"] and counted == pytest.approx(
        [counted[0]] * len(steps)
    )
    last = row["evaluations"][-1]["metrics"]
    assert last == {name: row["metrics"][name] for name in last} and "test/boxes/top1" in last
    assert set(row["data_fingerprint"]) and row["made_with"]["jax"]
    json.dumps(row, allow_nan=False)
