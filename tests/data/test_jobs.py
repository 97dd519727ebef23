"""Jobs: tasks are done once, whatever is killed."""

import json
import os
from pathlib import Path
import signal

import pytest

from harmopower.data import files, jobs


class Count:
    """Leaves a line for every time a task is done."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, number: int) -> dict:
        with open(Path(self.folder) / f"{number}.txt", "a") as file:
            file.write("done\n")
        return {"number": number}


class KilledOnce(Count):
    """The process of task 1 is killed in its first attempt."""

    def __call__(self, number: int) -> dict:
        report = super().__call__(number)
        if number == 1 and (Path(self.folder) / "1.txt").read_text().count("done") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return report


def times(folder) -> list[int]:
    return [(folder / f"{number}.txt").read_text().count("done") for number in range(4)]


def test_only_missing_tasks_are_done(tmp_path):
    files.write_json(jobs.report_path(tmp_path, 2), {"number": 2})
    reports = dict(jobs.run(tmp_path, Count(tmp_path), 4, jobs.Where()))
    assert reports == {number: {"number": number} for number in (0, 1, 3)}
    assert jobs.missing(tmp_path, 4) == [] and not (tmp_path / "2.txt").exists()
    assert list(jobs.run(tmp_path, Count(tmp_path), 4, jobs.Where())) == []


def test_shares_are_disjoint_and_complete(tmp_path):
    found = [number for index in range(3) for number in jobs.missing(tmp_path, 10, (index, 3))]
    assert sorted(found) == list(range(10))
    with pytest.raises(jobs.JobError, match="--share 3/3: the first number goes from 0 to 2"):
        jobs.Where(share=(3, 3))


def test_a_lost_process_is_made_up_for(tmp_path):
    reports = dict(jobs.run(tmp_path, KilledOnce(tmp_path), 4, jobs.Where(workers=2)))
    assert reports == {number: {"number": number} for number in range(4)}
    assert times(tmp_path)[1] == 2 and jobs.missing(tmp_path, 4) == []


def test_processes_that_are_lost_again_and_again_are_one_line_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_RETRIES", 0)
    with pytest.raises(jobs.JobError, match="killed 1 times.*run the same command again"):
        list(jobs.run(tmp_path, KilledOnce(tmp_path), 4, jobs.Where(workers=2)))
    list(jobs.run(tmp_path, KilledOnce(tmp_path), 4, jobs.Where(workers=2)))
    assert jobs.missing(tmp_path, 4) == []
    assert json.loads(jobs.report_path(tmp_path, 1).read_text()) == {"number": 1}


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.whole(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]
    (tmp_path / "a.json.partial-1").write_text("left by a kill")
    files.remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Count"]))
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield started.address
    started.shutdown()


@pytest.mark.slow
def test_a_killed_ray_worker_is_retried(tmp_path, cluster):
    reports = dict(jobs.run(tmp_path, KilledOnce(tmp_path), 4, jobs.Where(ray=cluster)))
    assert reports == {number: {"number": number} for number in range(4)}
    assert times(tmp_path) == [1, 2, 1, 1]


@pytest.mark.slow
def test_ray_prepares_the_same_bytes(tmp_path, cluster, monkeypatch):
    from harmopower.data.readers import jsonl, protocol
    from tests.data.preparing import common

    monkeypatch.setattr(protocol, "_UNIT_IMAGES", 4)
    monkeypatch.setattr(jsonl.Reader, "shard_bytes", 12 * len(common.picture(0)))
    photos = common.photographs(tmp_path, 40)
    assert common.run(photos) == 0 and common.run(photos, "--ray", cluster, output="ray") == 0
    assert common.tree(tmp_path / "ray") == common.tree(tmp_path / "out")


@pytest.mark.slow
def test_ray_annotates_the_same_bytes(tmp_path, cluster, monkeypatch):
    from harmopower.data.annotations import match
    from tests.data.annotations import common
    from tests.data.preparing.common import tree

    monkeypatch.setattr(match.Annotator, "records_per_task", 4)
    data = common.data_set(tmp_path / "data")
    assert common.run(data, "match", "--name", "here") == 0
    assert common.run(data, "match", "--name", "ray", "--ray", cluster) == 0
    here, there = (tree(data / "annotations" / name) for name in ("here", "ray"))
    reports = {path for path in here if path.startswith("making/0")}  # they tell the time that tasks took
    assert here.keys() == there.keys() and len(reports) == 8
    assert {path: there[path] for path in there.keys() - reports} == {
        path: here[path] for path in here.keys() - reports
    }


def test_ray_that_is_not_there_is_one_line(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(jobs.JobError, match="--ray 127.0.0.1:1"):
        list(jobs.run(tmp_path, Count(tmp_path), 1, jobs.Where(ray="127.0.0.1:1")))
