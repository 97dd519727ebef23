"""The command lines as a user meets them: clear errors with exit code 2, Ctrl-C and resuming, no TensorFlow."""

import json
import signal
import subprocess
import sys
import time

import pytest

from harmopower.training import writers
from tests.training import common

CONFIG = """
from tests.training import common

def get_config():
    return common.small_config({source!r}, total_steps=12, checkpoint__every_steps=100, evaluation__every_steps=0)
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    source = common.prepare(folder / "data")
    (folder / "small.py").write_text(CONFIG.format(source=source))
    return folder / "small.py"


def start(config_file, workdir, *settings):
    command = [sys.executable, "-m", "harmopower.train", f"--config={config_file}", f"--workdir={workdir}", *settings]
    # The suite's evaluation splits are missing from the small data set; what is left out is said in the table.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["--config.objective.powerset.wieght=0"], ["wieght"]),
        (["--config.batch_size=10", "--config.accumulate=4"], ["batch_size 10", "4 slices", "multiple of 4"]),
        (["--config.data.source=no/such/folder"], ["no/such/folder", "tools.prepare"]),
        (["--config.data.split=dev"], ["dev", "train"]),
        (["--config.model.preset=huge"], ["config.model.preset 'huge'"]),
        (["--config.init=no/such/weights"], ["no/such/weights"]),
        (["surplus"], ["unexpected argument 'surplus'"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(config_file, tmp_path, settings, words):
    run = start(config_file, tmp_path / "run", *settings)
    _, error = run.communicate()
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert run.returncode == 2 and "Traceback" not in error and len(lines) == 1, error
    assert all(word in lines[0] for word in words), lines


@pytest.mark.parametrize("module", ["harmopower.train", "harmopower.evaluate", "tools.plan"])
def test_help_shows_an_example_and_the_flags(module):
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and f"python -m {module} --" in shown.stdout, shown
    assert {"harmopower.train": "--config:", "harmopower.evaluate": "--step:", "tools.plan": "--chip:"}[
        module
    ] in shown.stdout


def test_a_workdir_that_is_no_folder_is_refused(config_file):
    run = start(config_file, "gs://bucket/run")
    _, error = run.communicate()
    assert run.returncode == 2 and "--workdir gs://bucket/run" in error and "Traceback" not in error


def test_a_wrong_config_path_is_one_line_and_exit_code_2(tmp_path):
    run = start(tmp_path / "missing.py", tmp_path)
    _, error = run.communicate()
    assert run.returncode == 2 and "missing.py" in error and "Traceback" not in error


def test_evaluating_nothing_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "harmopower.evaluate", f"--workdir={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "holds no run" in run.stderr and "Traceback" not in run.stderr


def test_ctrl_c_saves_and_the_same_command_goes_on(config_file, tmp_path):
    whole = start(config_file, tmp_path / "whole")
    assert whole.communicate() and whole.returncode == 0
    run = start(config_file, tmp_path / "run")
    wait_for_row(run, tmp_path / "run")
    run.send_signal(signal.SIGINT)
    output, error = run.communicate()
    rows = writers.read_metrics(str(tmp_path / "run"))
    assert run.returncode == 130 and "stopped by SIGINT" in output, error
    assert 1 <= rows[-1]["step"] < 12
    again = start(config_file, tmp_path / "run")
    assert again.communicate() and again.returncode == 0
    losses = [common.losses(writers.read_metrics(str(tmp_path / name))) for name in ("whole", "run")]
    assert losses[0] == losses[1] and len(losses[0]) >= 12
    assert json.loads((tmp_path / "run" / "config.json").read_text())["total_steps"] == 12


def wait_for_row(run, workdir):
    deadline = time.monotonic() + 300
    while not writers.read_metrics(str(workdir)):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(
    "modules",
    ["harmopower.train", "harmopower.evaluate, tools.prepare, tools.export, tools.convert_weights, tools.benchmark"],
)
def test_no_tensorflow_is_imported_anywhere(modules):
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
