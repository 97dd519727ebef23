"""The command lines as a user meets them: clear errors with exit code 2, Ctrl-C and resuming, no TensorFlow."""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time

from absl import flags
from ml_collections import config_flags
import pytest

from harmopower import command
from harmopower import config as configs
from harmopower.errors import CommandError
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
        (
            ["--config.objective.powerset.wieght=0"],
            ["config.objective.powerset.wieght", "config.objective.powerset.weight?"],
        ),
        (
            ["--config.model.attention=cudnn", "--config.model.dtype=bfloat16"],
            ["config.model.attention cudnn", "a cpu"],
        ),
        (["--config.mesh.platform=tpu"], ["config.mesh.platform tpu", "finds a cpu"]),
        (["--config.batch_size=10", "--config.accumulate=4"], ["batch_size 10", "4 slices", "multiple of 4"]),
        (["--config.data.source=no/such/folder"], ["no/such/folder", "tools.prepare"]),
        (["--config.data.split=dev"], ["dev", "train"]),
        (["--config.model.preset=huge"], ["config.model.preset 'huge'"]),
        (["--config.init=no/such/weights"], ["no/such/weights"]),
        (["surplus"], ["unexpected argument 'surplus'"]),
    ],
)
@pytest.mark.slow
def test_a_wrong_setting_is_one_line_and_exit_code_2(config_file, tmp_path, settings, words):
    run = start(config_file, tmp_path / "run", *settings)
    _, error = run.communicate()
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert run.returncode == 2 and "Traceback" not in error and len(lines) == 1, error
    assert all(word in lines[0] for word in words), lines


@pytest.mark.parametrize("module", ["harmopower.train", "harmopower.evaluate", "tools.inspect", "tools.plan"])
def test_help_shows_an_example_and_the_flags(module):
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and f"python -m {module} --" in shown.stdout, shown
    assert module != "harmopower.train" or "--help_config" in shown.stdout
    shown_flags = {"tools.inspect": "--html:", "tools.plan": "--chip:"}
    assert (shown_flags | {"harmopower.train": "--config:", "harmopower.evaluate": "--step:"})[module] in shown.stdout


def test_a_workdir_that_is_no_folder_is_refused(config_file):
    run = start(config_file, "gs://bucket/run")
    _, error = run.communicate()
    assert run.returncode == 2 and "--workdir gs://bucket/run" in error and "Traceback" not in error


def test_a_wrong_config_path_is_one_line_and_exit_code_2(tmp_path):
    run = start(tmp_path / "missing.py", tmp_path)
    _, error = run.communicate()
    assert run.returncode == 2 and "missing.py" in error and "Traceback" not in error


def test_a_workdir_that_cannot_be_made_is_one_line_and_exit_code_2(config_file):
    run = start(config_file, "/proc/x")
    _, error = run.communicate()
    assert run.returncode == 2 and "error: --workdir /proc/x cannot be" in error and "Traceback" not in error


@pytest.mark.parametrize(
    "source, words",
    [
        ("def get_config():\n    return 1 / 0\n", ["broken.py, line 2", "ZeroDivisionError"]),
        ("import no_such_package\n", ["no_such_package"]),
        ("def get_config(:\n", ["SyntaxError"]),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, source, words):
    (tmp_path / "broken.py").write_text(source)
    values, argv = flags.FlagValues(), ["train", f"--config={tmp_path / 'broken.py'}"]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    with pytest.raises(CommandError) as error:
        command.loaded_config(command.parsed(values, argv) and values.config)
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_config_says_so():
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=["train"])
    flags.mark_flag_as_required("config", values)
    with pytest.raises(CommandError, match="^--config is missing; --help shows an example$"):
        command.parsed(values, ["train"])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config.model.preset=tiny"], "^--config is missing; --help shows an example$"),
        (["--config=configs/own"], "^--config configs/own does not exist; did you mean configs/own.py.$"),
        (["--config", "config/scene.py"], "^--config config/scene.py does not exist; did you mean configs/scenes.py.$"),
        (["--config=zzz.py"], "^--config zzz.py does not exist; there are configs/cc12m_clip_meanpool_vitb16.py, "),
        (
            ["--config=configs/own.py", "--model.preset=tiny"],
            "'model.preset'; settings are given as --config.model.preset",
        ),
    ],
)
def test_what_a_newcomer_mistypes(monkeypatch, arguments, words):
    monkeypatch.chdir(Path(__file__).parent.parent)
    values, argv = flags.FlagValues(), ["train", *arguments]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    flags.mark_flag_as_required("config", values)
    with pytest.raises(CommandError, match=words):
        command.loaded_config(command.parsed(values, argv) and values.config)


def test_the_settings_are_listed():
    shown = subprocess.run([sys.executable, "-m", "harmopower.train", "--help_config"], capture_output=True, text=True)
    assert shown.returncode == 0 and all(f"--config.{key}=" in shown.stdout for key in configs.SETTINGS)


def test_evaluating_nothing_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "harmopower.evaluate", f"--workdir={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "holds no run" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.slow
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
