"""Jobs whose whole process group is killed, again and again, at random sizes of their folder."""

from collections.abc import Callable
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time


def start(script: Path, *arguments) -> subprocess.Popen:
    """A script in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def size(folder: Path) -> int:
    """Bytes below a folder, which others may write to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it is being renamed
            continue
    return total


def files(folder: Path) -> int:
    """Files below a folder, for jobs whose files are of one size."""
    return sum(1 for path in folder.rglob("*") if path.is_file())


def kill_again_and_again(
    begin: Callable[[], subprocess.Popen],
    output: Path,
    whole: int,
    kills: int,
    seed: int,
    look: Callable[[], None],
    measure: Callable[[Path], int] = size,
) -> int:
    """Kills jobs that `begin` starts and that fill `output` until its measure is `whole`; returns how many were killed.

    Fewer than asked for where one has come to its end. `look` is called after each kill.
    """
    rng = random.Random(seed)
    for killed in range(kills):
        process = begin()
        # The next kill comes somewhere in what is left, so that all of them find the job at work.
        there = measure(output) if output.exists() else 0
        target = there + rng.uniform(0, 1) * max(0, whole - there) / (kills - killed)
        while process.poll() is None and (not output.exists() or measure(output) <= target):
            time.sleep(0.002)
        if process.poll() is not None:
            return killed
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        look()
    return kills
