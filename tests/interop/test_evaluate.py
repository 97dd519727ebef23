"""`harmopower.evaluate` as a command: on published weights, with settings of its own, on whatever device there is."""

import json
import subprocess
import sys

from interop_models import random_params, settings, tokenizer
import numpy as np
import pytest
import safetensors.numpy

from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.interop import names, starting
from tests.evaluation import miniatures


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """What tools.convert_weights makes of a file that has no tokenizer beside it."""
    folder = tmp_path_factory.mktemp("converted")
    flat = random_params(settings("patch8-shared16-vision64x2x1-text64x1x1"))
    state = {name: np.ascontiguousarray(make()) for name, _, make in names.their_tensors(names.OPEN_CLIP, flat)}
    safetensors.numpy.save_file(state, folder / "m.safetensors")
    starting.convert(folder / "m.safetensors", folder / "run", say=lambda line: None)
    tokenizer().save(folder / "tokenizer.json")
    examples = [scenes.make_example("test", index, image_size=32) for index in range(11)]
    records.write(folder / "data", {"test": examples}, name="scenes")
    return folder


def evaluate(converted, *flags):
    command = [sys.executable, "-m", "harmopower.evaluate", f"--workdir={converted / 'run'}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_published_weights_are_measured_with_settings_of_the_command_line(converted):
    own = [f"--config.data.source={converted / 'data'}", f"--config.data.tokenizer={converted / 'tokenizer.json'}"]
    run = evaluate(converted, *own, "--config.model.attention=cudnn", "--config.evaluation.batch_size=4")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("config.model.attention cudnn needs a GPU, this is cpu: xla is used") == 1
    stored = json.loads((converted / "run" / "eval.json").read_text())
    assert stored["step"] == 0 and stored["metrics"]["test/retrieval/image_to_text_r10"] >= 0.5
    assert json.loads((converted / "run" / "config.json").read_text())["evaluation"]["batch_size"] == 256


@pytest.mark.parametrize(
    "flags, words",
    [([], "no tokenizer"), (["--config.model.preset=tiny"], "--config.model.preset belongs to the trained model")],
)
def test_what_cannot_be_evaluated_is_one_line_and_exit_code_2(converted, flags, words):
    run = evaluate(converted, *flags)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.returncode == 2 and len(errors) == 1 and words in errors[0] and "Traceback" not in run.stderr, run.stderr


@pytest.mark.slow
def test_published_weights_and_a_run_make_one_table_and_nothing_is_measured_twice(converted, tmp_path):
    miniatures.classification(tmp_path / "sets" / "food101", 9)
    command = [sys.executable, "-m", "harmopower.evaluate", f"--model={converted / 'm.safetensors'}"]
    command += [f"--model={converted / 'run'}", "--suite=zero_shot", f"--data={tmp_path / 'sets'}"]
    command += [f"--output={tmp_path / 'out'}", f"--config.data.tokenizer={converted / 'tokenizer.json'}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    stored = json.loads((tmp_path / "out" / "table.json").read_text())
    one, two = stored.values()  # the same weights, once converted on the way
    assert one["metrics"] == two["metrics"] and 0 <= one["metrics"]["food101/acc1"] <= 1
    assert f"| {converted / 'm.safetensors'} | {converted / 'run'} |" in (tmp_path / "out" / "table.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "was converted before, is used" in again.stdout, again.stderr
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == stored
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")} and len(before) == 2
