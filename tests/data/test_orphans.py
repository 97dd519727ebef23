"""Worker processes whose parent was killed, and so could not end them."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

POOL = """
import concurrent.futures, multiprocessing, time
from harmopower.data import orphans
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context, orphans.end_with_parent) as pool:
        list(pool.map(abs, range(8)))
        print("ready", flush=True)
        time.sleep(600)
"""
PIPELINE = """
import itertools, sys, time
from harmopower.data.pipeline import Pipeline
from tests.data import test_pipeline
if __name__ == "__main__":
    source = test_pipeline._List([test_pipeline._example(index) for index in range(8)])
    tokenizer = test_pipeline.Tokenizer.train(test_pipeline.CAPTIONS * 5, 300)
    options = test_pipeline.OPTIONS | dict(seed=0, batch_size=4, workers=2, threads=1)
    batches = Pipeline(source, tokenizer, **options).iterate()
    next(batches)
    print("ready", flush=True)
    if sys.argv[1] == "busy":
        for _ in batches:
            pass
    time.sleep(600)
"""


def _running() -> dict[int, int]:
    """Process -> its parent; those that have ended and are only listed are left out."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            found[int(place.name)] = int(parent)
    return found


def _below(pid: int) -> set[int]:
    parents, found = _running(), set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


@pytest.mark.parametrize(
    "script, mode",
    [
        (POOL, "waiting"),
        pytest.param(PIPELINE, "waiting", marks=pytest.mark.slow),
        pytest.param(PIPELINE, "busy", marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_a_parent_that_is_killed(script, mode, tmp_path):
    (tmp_path / "parent.py").write_text(script)
    command, environment = [sys.executable, tmp_path / "parent.py", mode], os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        workers = _below(parent.pid)
        assert len(workers) >= 2
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while (left := workers & _running().keys()) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
