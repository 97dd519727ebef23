"""A job whose whole process group is killed, again and again, at random sizes of its folder."""

import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import pytest

from harmopower.data import records
from tests.data.preparing import common

# Small units and shards, so that there is much to be killed in.
SCRIPT = """
import sys
from harmopower.data.readers import jsonl, protocol
from tools import prepare
if __name__ == "__main__":
    protocol._UNIT_IMAGES, jsonl.Reader.shard_bytes = 8, 4096
    sys.exit(prepare.main(sys.argv[1:]))
"""
KILLS = 10
IMAGES = 800


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return common.photographs(tmp_path_factory.mktemp("photos"), IMAGES)


@pytest.fixture(scope="module")
def undisturbed(photos):
    assert _start(photos, "undisturbed", 1).wait() == 0
    return common.tree(photos.parent / "undisturbed")


def _start(photos: Path, output: str, workers: int) -> subprocess.Popen:
    script = photos.with_name("small.py")
    script.write_text(SCRIPT)
    arguments = ["jsonl", "--input", photos, "--output", photos.parent / output, "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, script, *arguments, "--vocab-size", "300", "--test-fraction", "0.2"],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it is being renamed
            continue
    return total


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_leave_the_same_bytes(photos, undisturbed, workers):
    output = photos.parent / f"killed{workers}"
    whole, rng, killed = _size(photos.parent / "undisturbed"), random.Random(workers), 0
    while killed < KILLS:
        process = _start(photos, output.name, workers)
        # The next kill comes somewhere in what is left, so that all ten find the job at work.
        there = _size(output) if output.exists() else 0
        target = there + rng.uniform(0, 1) * max(0, whole - there) / (KILLS - killed)
        while process.poll() is None and (not output.exists() or _size(output) <= target):
            time.sleep(0.002)
        if process.poll() is not None:
            break  # it was faster than the last kills
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        if not (output / "dataset_info.json").exists():
            with pytest.raises(records.DataSourceError):
                records.read(output, "train")
    assert killed >= KILLS - 2
    assert _start(photos, output.name, workers).wait() == 0
    assert common.tree(output) == undisturbed
    assert len(undisturbed) > 100
