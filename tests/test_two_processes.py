"""Two real processes over localhost: the losses of one process, one set of files, one stop for both, and resuming."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from harmopower.training import writers
from harmopower.training.checkpoints import Checkpoints
from tests.training import common

pytestmark = pytest.mark.slow

TOTAL = 30
TWO_DEVICES = f"--xla_force_host_platform_device_count=2 {os.environ.get('XLA_FLAGS', '')}"
# Warm-up throughout: Adam's full-sized steps blow rounding up to any size.
CONFIG = f"""
from tests.training import common

def get_config():
    return common.small_config({{source!r}}, total_steps={TOTAL}, optimizer__warmup_steps={TOTAL - 1},
                               optimizer__learning_rate=3e-4, checkpoint__every_steps=100, evaluation__every_steps=0)
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "small.py").write_text(CONFIG.format(source=common.prepare(folder / "data")))
    return folder / "small.py"


def start(config_file, workdir, *settings, **environment):
    command = [sys.executable, "-m", "harmopower.train", f"--config={config_file}", f"--workdir={workdir}", *settings]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_two(config_file, workdir, *settings):
    joined = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
    return [start(config_file, workdir, *settings, **joined, JAX_PROCESS_ID=rank) for rank in "01"]


def finish(*processes):
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_two_processes_are_one_run(config_file, tmp_path):
    whole = start(config_file, tmp_path / "one", XLA_FLAGS=TWO_DEVICES)
    codes, outputs = finish(whole)
    assert codes == [0], outputs

    first, second = start_two(config_file, tmp_path / "two")
    while not writers.read_metrics(str(tmp_path / "two")):
        assert first.poll() is None and second.poll() is None, finish(first, second)
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)  # the one that writes no files
    codes, outputs = finish(first, second)
    (stopped,) = Checkpoints(str(tmp_path / "two")).steps()
    assert codes == [75, 75] and 1 <= stopped < TOTAL, outputs
    assert f"stopped by SIGTERM after step {stopped}" in outputs[0] and "stopped" not in outputs[1]

    codes, outputs = finish(*start_two(config_file, tmp_path / "two"))
    assert codes == [0, 0] and Checkpoints(str(tmp_path / "two")).steps() == [stopped, TOTAL], outputs
    rows = [writers.read_metrics(str(tmp_path / name)) for name in ("one", "two")]
    assert [row["step"] for row in rows[1] if "loss/total" in row] == list(range(1, TOTAL + 1))
    for one, two in zip(*(common.losses(part) for part in rows), strict=True):
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)
    assert len(list((tmp_path / "two").glob("metrics.*"))) == 2


def test_bad_records_stop_both_processes_at_the_same_step(config_file, tmp_path):
    source = common.prepare(tmp_path / "data", image=b"broken")  # 1 of 24, read by one process: 4 % of them
    codes, outputs = finish(*start_two(config_file, tmp_path / "run", f"--config.data.source={source}"))
    assert codes == [65, 65], outputs
    assert all("error: 1 of 24 examples (4.17%) cannot be used" in output for output in outputs)
    (saved,) = Checkpoints(str(tmp_path / "run")).steps()
    assert saved == 4  # the metrics of step 3, which ends the first pass over the data, come in at step 4
    assert [row["step"] for row in writers.read_metrics(str(tmp_path / "run"))] == [1, 2, 3, 4]


def test_a_killed_process_ends_the_other(config_file, tmp_path):
    first, second = processes = start_two(config_file, tmp_path / "run", "--config.total_steps=3000")
    while not writers.read_metrics(str(tmp_path / "run")):
        assert all(process.poll() is None for process in processes), finish(*processes)
        time.sleep(0.01)
    second.kill()
    codes, outputs = finish(first, second)
    assert codes == [69, -signal.SIGKILL] and "error: another process of the run is lost" in outputs[0], outputs


def test_both_processes_refuse_a_wrong_mesh(config_file, tmp_path):
    codes, outputs = finish(*start_two(config_file, tmp_path / "run", "--config.mesh.tensor=2"))
    assert codes == [2, 2], outputs
    assert all("config.mesh.tensor 2 spans the processes 0, 1" in output for output in outputs)
