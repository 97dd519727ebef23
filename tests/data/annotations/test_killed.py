"""Overlays whose makers are killed, again and again, at random counts of their files."""

from pathlib import Path
import subprocess

import pytest

from harmopower.data.annotations import overlays
from tests.data import killing
from tests.data.annotations import common
from tests.data.preparing.common import tree

# Small tasks, so that there is much to be killed in.
SCRIPT = """
import sys
from harmopower.data.annotations import match
from tools import annotate
if __name__ == "__main__":
    match.Annotator.records_per_task = 40
    sys.exit(annotate.main(sys.argv[1:]))
"""
KILLS = 10
RECORDS = 4000


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = common.data_set(tmp_path_factory.mktemp("photos") / "data", RECORDS)
    folder.with_name("small.py").write_text(SCRIPT)
    return folder


def _start(data: Path, name: str, workers: int) -> subprocess.Popen:
    return killing.start(data.with_name("small.py"), "match", "--data", data, "--name", name, "--workers", workers)


def _lines(data: Path, name: str) -> dict[str, str]:
    """All but the reports, which tell the time that tasks took."""
    return {path: mark for path, mark in tree(overlays.folder(data, name)).items() if not path.startswith("making/0")}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_leave_the_same_overlay(data, workers):
    assert _start(data, f"whole{workers}", 1).wait() == 0
    expected, output = _lines(data, f"whole{workers}"), overlays.folder(data, f"killed{workers}")
    seen = []

    def look() -> None:
        if not (output / overlays.INFO).exists():
            seen.append(len(list((output / "making").glob("0*.json"))))
            with pytest.raises(overlays.AnnotationError, match="not complete"):
                overlays.read(data, "train", output.name)

    def begin() -> subprocess.Popen:
        return _start(data, output.name, workers)

    # Of every task a file of lines and a report; an array_record of a few lines is 64 KiB whatever it holds.
    whole = 2 * len(list((overlays.folder(data, f"whole{workers}") / "making").glob("0*.json")))
    assert killing.kill_again_and_again(begin, output, whole, KILLS, workers, look, killing.files) >= KILLS - 3
    assert begin().wait() == 0
    assert _lines(data, output.name) == expected and len(expected) == 4
    assert seen == sorted(seen) and seen[-1] > 0  # what was done stayed done
    assert len(set(seen)) > KILLS // 2
    assert len(overlays.read(data, "train", output.name)) == RECORDS
