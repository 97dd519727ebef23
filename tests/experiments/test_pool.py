"""How runs are run: so many at once, in order, stopped, started again, failed; with commands that need no training."""

import fcntl
import json
import os
from pathlib import Path
import signal
import sys
import threading
import time

import pytest

from harmopower.experiments import pool as pools
from harmopower.experiments import rows
from harmopower.experiments.place import Place
from tests.experiments import common

# Writes when it began and ended, waits for files before it ends, and answers SIGTERM as training does.
STAND_IN = """
import json, os, signal, sys, time
folder, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
os.makedirs(folder, exist_ok=True)
open(os.path.join(folder, "begun"), "a").write(f"{time.time()}\\n")
open(os.path.join(folder, "cores"), "w").write(json.dumps(sorted(os.sched_getaffinity(0))))
time.sleep(seconds)
while not all(map(os.path.exists, sys.argv[4:])):
    time.sleep(0.01)
open(os.path.join(folder, "ended"), "a").write(f"{time.time()}\\n")
print("error: it went wrong" if code else "fine")
sys.exit(code)
"""


class Stop:
    """What a signal does to the command, without one: it comes when all these files are there."""

    def __init__(self, *files):
        self._files = files

    def requested(self):
        return bool(self._files) and all(file.exists() for file in self._files)


class StandIn(Place):
    """Commands of no time; `codes` are what a run ends with, one after the other, `waits` whose beginning it awaits."""

    def __init__(self, *arguments, seconds=0.0, codes=None, waits=None):
        super().__init__(*arguments)
        self._seconds, self.codes, self._waits = seconds, codes or {}, waits or {}

    def command(self, run):
        code = self.codes.get(run.name, [0])
        now = code.pop(0) if len(code) > 1 else code[0]
        awaited = [str(self.folder(self._runs[name]) / "begun") for name in self._waits.get(run.name, ())]
        return [sys.executable, "-S", "-c", STAND_IN, str(self.folder(run)), str(self._seconds), str(now), *awaited]

    def finished(self, run):
        return (self.folder(run) / "ended").exists()

    def row(self, run):
        return {"run": run.name, "definition": run.definition}

    def times(self, run, what):
        path = self.folder(run) / what
        return [float(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def table(tmp_path):
    more = '"tuned": Variant({}, start="powerset"), "half": Variant(between=("clip", "tuned", 0.5))'
    table = common.load(tmp_path, more=more)
    return table, table.runs(seeds=(0,))


def run(table, folder, jobs=2, stop=None, wanted=None, **how):
    own, runs = table
    place = StandIn(own, runs, folder / "runs", **how)
    lines = []
    done = {row["run"] for row in rows.read(folder / "rows.jsonl")}
    wanted = [each for each in runs.values() if each.name not in done] if wanted is None else wanted
    outcome = pools.Pool(wanted, runs, place, folder / "rows.jsonl", jobs, lines.append).go(stop or Stop())
    return outcome, place, lines


def test_so_many_at_once_and_each_after_what_it_needs(table, tmp_path):
    runs = table[1]
    both = ("scenes/clip/seed0", "scenes/powerset/seed0")  # neither ends before the other has begun
    outcome, place, lines = run(table, tmp_path, waits=dict.fromkeys(both, both))
    assert outcome == ({}, False) and {row["run"] for row in rows.read(tmp_path / "rows.jsonl")} == set(runs)
    begun = {name: place.times(each, "begun") for name, each in runs.items()}
    ended = {name: place.times(each, "ended")[0] for name, each in runs.items()}
    assert all(len(times) == 1 for times in begun.values())
    for name, each in runs.items():
        assert all(ended[need] < begun[name][0] for need in each.needs)
    for moments in begun.values():
        assert sum(begun[other][0] <= moments[0] < ended[other] for other in runs) <= 2
    assert lines[-1] == "scenes/half/seed0: done (4 of 4)"


def test_runs_at_once_share_out_the_cores(table, tmp_path, monkeypatch):
    both = ("scenes/clip/seed0", "scenes/powerset/seed0")
    before, wanted = os.sched_getaffinity(0), [table[1][name] for name in both]
    if len(before) < 2:
        pytest.skip("one core cannot be shared out")
    _, place, _ = run(table, tmp_path, waits=dict.fromkeys(both, both), wanted=wanted)
    first, second = (set(json.loads((place.folder(each) / "cores").read_text())) for each in wanted)
    assert first | second == before == os.sched_getaffinity(0) and not first & second
    _, place, _ = run(table, tmp_path / "alone", jobs=1, wanted=wanted)  # a run that is alone has all of them
    assert set(json.loads((place.folder(wanted[0]) / "cores").read_text())) == before
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7})
    assert pools.core_shares(2) == [{0, 2, 7}, {1, 5}] and pools.core_shares(6) == [set()] * 6


def test_a_failed_run_is_named_and_stops_no_other(table, tmp_path):
    outcome, _, lines = run(table, tmp_path, jobs=1, codes={"scenes/powerset/seed0": [2]})
    assert outcome.failed == {
        "scenes/powerset/seed0": "exit code 2: error: it went wrong",
        "scenes/tuned/seed0": "not begun: it starts from scenes/powerset/seed0",
        "scenes/half/seed0": "not begun: it starts from scenes/tuned/seed0",
    }
    assert [row["run"] for row in rows.read(tmp_path / "rows.jsonl")] == ["scenes/clip/seed0"]
    outcome, _, lines = run(table, tmp_path, jobs=1)  # once it is mended, the rest is done
    assert outcome.failed == {} and len(rows.read(tmp_path / "rows.jsonl")) == 4
    assert not any(line.startswith("scenes/clip") for line in lines)


def test_a_run_that_was_stopped_is_started_again_but_not_for_ever(table, tmp_path):
    codes = {"scenes/clip/seed0": [75, 69, 0], "scenes/powerset/seed0": [75]}
    outcome, place, lines = run(table, tmp_path, codes=codes, wanted=list(table[1].values())[:2])
    assert outcome.failed == {"scenes/powerset/seed0": "exit code 75: error: it went wrong"}
    begun = [len(place.times(each, "begun")) for each in list(table[1].values())[:2]]
    assert begun == [3, pools.TRIES]
    assert "scenes/clip/seed0: was stopped (exit code 75), is started again" in lines


def test_a_signal_is_passed_on_and_the_same_table_goes_on(table, tmp_path):
    place = StandIn(*table, tmp_path / "runs")
    stop = Stop(*(place.folder(each) / "begun" for each in list(table[1].values())[:2]))
    outcome, place, lines = run(table, tmp_path, stop=stop, seconds=600)
    assert outcome == ({}, True) and rows.read(tmp_path / "rows.jsonl") == []
    assert "scenes/clip/seed0: stopped (exit code 75); the same command goes on with it" in lines
    assert sum(bool(place.times(each, "begun")) for each in table[1].values()) == 2
    assert run(table, tmp_path)[0] == ({}, False) and len(rows.read(tmp_path / "rows.jsonl")) == 4


def test_what_a_killed_table_left_running_is_waited_for(table, tmp_path):
    clip, powerset = list(table[1].values())[:2]
    place = StandIn(*table, tmp_path / "runs")
    place.folder(clip).mkdir(parents=True)
    lock = open(place.folder(clip) / "lock", "w")  # noqa: SIM115, closed below
    lock.write("process 7 on host")
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)

    def leave_when_the_other_is_done():
        while not place.finished(powerset):
            time.sleep(0.01)
        assert not place.times(clip, "begun")
        lock.close()

    threading.Thread(target=leave_when_the_other_is_done, daemon=True).start()
    outcome, _, lines = run(table, tmp_path, wanted=[clip, powerset])
    assert lines.count("scenes/clip/seed0: is run by process 7 on host: waiting for it") == 1
    assert outcome.failed == {} and len(place.times(clip, "begun")) == 1
    assert place.times(powerset, "ended")[0] < place.times(clip, "begun")[0]
    assert len(rows.read(tmp_path / "rows.jsonl")) == 2


def test_weights_that_are_not_here_are_made_again_without_a_second_row(table, tmp_path):
    runs = table[1]
    for name in ("scenes/clip/seed0", "scenes/powerset/seed0"):  # rows that came with the code
        rows.append(tmp_path / "rows.jsonl", {"run": name, "definition": runs[name].definition})
    outcome, place, lines = run(table, tmp_path, wanted=[runs["scenes/tuned/seed0"]])
    assert outcome.failed == {} and not place.finished(runs["scenes/clip/seed0"])  # nobody needs it
    assert "scenes/powerset/seed0: its weights are there again (1 of 2)" in lines
    assert [row["run"] for row in rows.read(tmp_path / "rows.jsonl")][2:] == ["scenes/tuned/seed0"]


def test_what_is_needed_and_has_no_row_gets_one(table, tmp_path):
    outcome, _, lines = run(table, tmp_path, wanted=[table[1]["scenes/tuned/seed0"]])
    assert outcome.failed == {} and lines[-1] == "scenes/tuned/seed0: done (2 of 2)"
    assert [row["run"] for row in rows.read(tmp_path / "rows.jsonl")] == ["scenes/powerset/seed0", "scenes/tuned/seed0"]


def test_a_mistake_of_ours_leaves_no_process_behind(table, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(pools.Pool, "_reap", lambda self, stopping: broken() if self._running else None)
    started = []
    popen = pools.subprocess.Popen
    monkeypatch.setattr(pools.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(RuntimeError, match="broken"):
        run(table, tmp_path, seconds=600)
    assert [process.wait(10) for process in started] == [-signal.SIGKILL] * 2


def test_the_last_line_that_says_something(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("$ first\nerror: old\n$ second\nstep 1\nerror: new\nand more\n\n")
    assert pools.last_line(log) == "error: new"
    log.write_text("$ first\nerror: old\n$ second\nKilled\n")
    assert pools.last_line(log) == "Killed"
    log.write_text("$ first\n")
    assert pools.last_line(log) == "it printed nothing"


def test_the_command_is_what_a_person_would_type(table, tmp_path):
    own, runs = table
    place = Place(own, runs, tmp_path / "runs")
    tuned = place.command(runs["scenes/tuned/seed0"])
    start = place.folder(runs["scenes/powerset/seed0"])
    assert tuned[1:3] == ["-m", "harmopower.train"] and f"--config.init={start}" in tuned
    assert "--config.seed=0" in tuned and Path(tuned[tuned.index("--workdir") + 1]).parent.name == "tuned"
    half = place.command(runs["scenes/half/seed0"])
    assert half[1:3] == ["-m", "tools.interpolate"] and half[half.index("--alpha") + 1] == "0.5"
    assert half[half.index("--b") + 1] == str(place.folder(runs["scenes/tuned/seed0"]))
    folders = {place.folder(each) for each in runs.values()}
    assert len(folders) == len(runs)
    json.dumps([each.settings for each in runs.values()])


def test_a_run_is_finished_when_its_last_step_is_evaluated(table, tmp_path, monkeypatch):
    own, runs = table
    place, clip = Place(own, runs, tmp_path / "runs"), runs["scenes/clip/seed0"]
    monkeypatch.setattr(Place, "step", lambda self, run: 4)  # its checkpoint of the last step is there
    folder = place.folder(clip)
    folder.mkdir(parents=True)
    evaluations = [{"step": 2, "evaluation/a/boxes/top1": 0.25}, {"step": 4, "evaluation/a/boxes/top1": 0.5}]
    metrics = [{"step": 3, "loss/total": 1.0, "model_flops": 30.0}, *evaluations]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "run.json").write_text('{"data": {"train": 1}}')
    (folder / "eval.json").write_text('{"step": 2, "metrics": {"a/boxes/top1": 0.25}}')
    assert not place.finished(clip)  # a stop cut it short: the training makes it when it goes on
    (folder / "eval.json").write_text('{"step": 4, "metrics": {"a/boxes/top1": 0.5}}')
    assert place.finished(clip)
    found = place.row(clip)
    assert [(each["step"], each["model_flops"]) for each in found["evaluations"]] == [(2, 20.0), (4, 40.0)]
    assert found["evaluations"][-1]["metrics"] == {"a/boxes/top1": 0.5} and found["model_flops"] == 40.0
