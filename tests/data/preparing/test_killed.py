"""A job whose whole process group is killed, again and again, at random sizes of its folder."""

from pathlib import Path
import subprocess

import pytest

from harmopower.data import records
from tests.data import killing
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
    arguments = ["jsonl", "--input", photos, "--output", photos.parent / output, "--workers", workers]
    return killing.start(script, *arguments, "--vocab-size", "300", "--test-fraction", "0.2")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills_leave_the_same_bytes(photos, undisturbed, workers):
    output = photos.parent / f"killed{workers}"
    whole = killing.size(photos.parent / "undisturbed")

    def look() -> None:
        if not (output / "dataset_info.json").exists():
            with pytest.raises(records.DataSourceError):
                records.read(output, "train")

    def begin() -> subprocess.Popen:
        return _start(photos, output.name, workers)

    assert killing.kill_again_and_again(begin, output, whole, KILLS, workers, look) >= KILLS - 2
    assert begin().wait() == 0
    assert common.tree(output) == undisturbed
    assert len(undisturbed) > 100
