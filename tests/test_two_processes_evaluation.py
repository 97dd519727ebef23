"""Two real processes evaluate real splits: the numbers of one process, and each image decoded once, on one of them."""

import collections
import json
import os
import subprocess
import sys

import pytest

from harmopower import runs
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.evaluation.suite import FEATURES
from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import CheckpointWriter
from tests.evaluation import miniatures
from tests.test_two_processes import finish, free_address
from tests.training import common

pytestmark = pytest.mark.slow

# The command itself, in a process that writes down what it decodes.
COUNTING = """
import hashlib, os, runpy, sys
from harmopower.data import images

decode = images.decode

def counted(data):
    with open(f"{os.environ['DECODED']}.{os.environ.get('JAX_PROCESS_ID', 0)}", "a") as file:
        file.write(hashlib.sha256(data).hexdigest() + "\\n")
    return decode(data)

images.decode = counted
sys.argv[0] = "evaluate"
runpy.run_module("harmopower.evaluate", run_name="__main__")
"""
IMAGES = 21 + 10
SETTINGS = ["--config.evaluation.padded_size=128", f"--config.evaluation.box_features={','.join(FEATURES)}"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    data = scenes.prepare(folder / "data", train=8, test=21, test_unseen=10, image_size=32, processes=1)
    config = common.small_config(str(data), evaluation__batch_size=8)
    tokenizer = Tokenizer.train([example["captions"][0] for example in records.read(data, "test")], 300)
    model, mesh = runs.build_model(config, tokenizer), meshes.make_mesh(devices=None)
    state = states.create(model, optimizers.make_optimizer(config), mesh, 0)
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(runs.configs.to_json(config))
    tokenizer.save(folder / "run" / "tokenizer.json")
    with CheckpointWriter(str(folder / "run")) as checkpoints:
        checkpoints.save(1, state, {})
    return folder / "run"


def evaluate(workdir, decoded, *flags, **environment):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "DECODED": str(decoded)} | environment
    command = [sys.executable, "-c", COUNTING, f"--workdir={workdir}", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_two_processes_find_the_numbers_of_one_and_share_the_images(workdir, tmp_path):
    codes, outputs = finish(evaluate(workdir, tmp_path / "alone"))
    assert codes == [0], outputs
    alone = json.loads((workdir / "eval.json").read_text())
    (workdir / "eval.json").unlink()

    joined = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
    codes, outputs = finish(*(evaluate(workdir, tmp_path / "two", **joined, JAX_PROCESS_ID=rank) for rank in "01"))
    assert codes == [0, 0], outputs
    assert json.loads((workdir / "eval.json").read_text()) == alone
    assert "retrieval" in outputs[0] and "retrieval" not in outputs[1]  # one table
    assert {name.split("/")[0] for name in alone["metrics"]} == {"test", "test_unseen"}

    first, second = ((tmp_path / f"two.{rank}").read_text().split() for rank in "01")
    counted = collections.Counter(first + second)
    assert len(counted) == IMAGES and set(counted.values()) == {1}
    assert len(first) == (4 + 4 + 4) + (4 + 2) and len(second) == IMAGES - len(first)  # halves of each batch of 8
    assert sorted(counted) == sorted((tmp_path / "alone.0").read_text().split())


def test_two_processes_find_the_numbers_of_one_in_every_suite(workdir, tmp_path):
    root = miniatures.everything(tmp_path / "root")
    flags = [f"--data={root}", f"--suite={miniatures.SUITES}", "--again", *SETTINGS]
    codes, outputs = finish(evaluate(workdir, tmp_path / "alone", *flags))
    assert codes == [0], outputs
    alone = json.loads((workdir / "eval.json").read_text())
    (workdir / "eval.json").unlink()
    joined = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2"}
    both = [evaluate(workdir, tmp_path / "two", *flags, **joined, JAX_PROCESS_ID=rank) for rank in "01"]
    codes, outputs = finish(*both)
    assert codes == [0, 0], outputs
    two = json.loads((workdir / "eval.json").read_text())
    flipped = {name for name, value in two["metrics"].items() if value != alone["metrics"][name]}
    assert not flipped and two == alone and len(alone["metrics"]) > 60
    counted = collections.Counter(line for rank in "01" for line in (tmp_path / f"two.{rank}").read_text().split())
    assert counted == collections.Counter((tmp_path / "alone.0").read_text().split())
