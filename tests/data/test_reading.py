"""Reading: thousands of shards with few files open, from several threads and after pickling; damage is not skipped."""

from concurrent import futures
import os
from pathlib import Path
import pickle
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

from array_record.python import array_record_module
import pytest

from harmopower.data import order, records
from harmopower.data.reading import RecordFiles
from tools import benchmark_rows


def _instruction(path, skip=0, take=2):
    return SimpleNamespace(filename=path, skip=skip, take=take)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Files of two records each, which say where they are."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(40):
        writer = array_record_module.ArrayRecordWriter(str(folder / f"{number:04d}"), "group_size:1")
        for index in range(2):
            writer.write(f"{number}/{index}".encode())
        writer.close()
    return folder


def test_records_of_all_files_in_order(shards):
    files = RecordFiles([_instruction(path) for path in sorted(shards.glob("00*"))], open_files=3)
    assert len(files) == 80
    expected = [f"{i // 2}/{i % 2}".encode() for i in range(80)]
    assert [files[i] for i in range(80)] == expected
    assert [pickle.loads(pickle.dumps(files))[i] for i in (79, 0)] == [expected[79], expected[0]]
    with futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.__getitem__, [i * 37 % 80 for i in range(400)])) == [
            expected[i * 37 % 80] for i in range(400)
        ]
    for index in (-1, 80):
        with pytest.raises(IndexError):
            files[index]


def test_slices_of_files(shards):
    files = RecordFiles([_instruction(shards / "0003", 1, 1), _instruction(shards / "0004", 0, 1)])
    assert [files[0], files[1]] == [b"3/1", b"4/0"]
    assert files.place(0) == (str(shards / "0003"), 1)


def test_the_files_used_last_stay_open(shards):
    files = RecordFiles([_instruction(path) for path in sorted(shards.glob("00*"))], open_files=3)
    links = lambda: sum(str(shards) in os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())
    for index in range(80):
        files[index]
        assert links() <= 3
    assert links() == 3


def _descriptors():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_5000_shards_under_a_limit_of_256_open_files(shards, tmp_path):
    paths = sorted(shards.glob("00*"))
    for number in range(5000):
        os.link(paths[number % 40], tmp_path / f"{number:05d}")
    script = (
        "import resource, pathlib\n"
        "from types import SimpleNamespace\n"
        "from harmopower.data.reading import RecordFiles\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        f"paths = sorted(pathlib.Path({str(tmp_path)!r}).iterdir())\n"
        "files = RecordFiles([SimpleNamespace(filename=path, skip=0, take=2) for path in paths])\n"
        "assert len(files) == 10_000\n"
        "for index in range(0, 10_000, 2):\n"
        "    assert files[index] == f'{index // 2 % 40}/0'.encode()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_memory_to_open_and_order_a_million_records_is_that_of_ten_thousand(tmp_path):
    """A list of a million numbers would be 8 MiB; what C++ code holds shows in the resident size alone."""

    def grown(count: int) -> tuple[int, int]:
        """Bytes that Python held at most, and that this process grew by."""
        before = _resident_bytes()
        tracemalloc.start()
        for shuffle in ("global", "window"):
            source = records.read(tmp_path / str(count), "train")
            places = order.Mixture((order.Order(len(source), 0, shuffle),))
            assert len(source) == count
            for position in range(0, 3 * count, count // 20):
                source[places[position][1]]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, _resident_bytes() - before

    for count in (10_000, 1_000_000):
        (tmp_path / str(count)).mkdir()
        benchmark_rows.write_large(tmp_path / str(count), count, examples_per_shard=5000)
    (few, _), (many, resident) = grown(10_000), grown(1_000_000)
    assert many < few + 2 * 2**20 and resident < 16 * 2**20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
