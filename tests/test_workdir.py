"""What a resumed run may change, and that a refused one changes nothing."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from harmopower import config as configs
from harmopower import runs
from harmopower import workdir as workdirs
from harmopower.data import records
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import CommandError, ConfigError
from harmopower.parallel import mesh as meshes
from harmopower.settings import FIXED, FREE, HISTORY
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import Checkpoints, CheckpointWriter
from harmopower.training.state import TrainState
from tests.training import common


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return common.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def run(source, tmp_path):
    """A workdir with one checkpoint, and what made it."""
    tokenizer, config = Tokenizer.load("", source), common.small_config(source)
    workdirs.prepare(str(tmp_path), config, tokenizer)(0)
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(3, TrainState(jnp.array(3), {"a": jnp.ones(2)}, ()), {})
    return tmp_path, config, tokenizer


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_key_has_a_class():
    for key, setting in configs.SETTINGS.items():
        assert setting.resumed in (FIXED, HISTORY, FREE), key


def test_the_same_run_goes_on(run):
    folder, config, tokenizer = run
    before = contents(folder)
    workdirs.prepare(str(folder), config, tokenizer)(3)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "key, value",
    [
        ("model.preset", "other"),
        ("seed", 5),
        ("batch_size", 16),
        ("objective.powerset.weight", 0.5),
        ("objective.global_contrastive.kind", "sigmoid"),  # which has a bias
        ("objective.global_region.teacher", "start"),
    ],
)
def test_what_is_fixed_is_refused_with_both_values_and_the_way_out(run, key, value):
    folder, config, tokenizer = run
    old, before = configs.flat(config.to_dict())[key], contents(folder)
    config.update_from_flattened_dict({key: value, "total_steps": 50})
    with pytest.raises(CommandError) as error:
        workdirs.prepare(str(folder), config, tokenizer)
    assert f"config.{key} {old!r} there, {value!r} here" in str(error.value)
    assert f"--allow_changes={key}" in str(error.value) and contents(folder) == before
    workdirs.prepare(str(folder), config, tokenizer, f"config.{key}")(3)
    assert configs.flat(workdirs.read_config(str(folder)).to_dict())[key] == value
    (line,) = (folder / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["changes"] == {key: [old, value], "total_steps": [6, 50]} and json.loads(line)["step"] == 3


def test_all_differences_are_listed_at_once(run):
    folder, config, tokenizer = run
    config.seed, config.data.image_size = 1, 32
    with pytest.raises(CommandError, match=r"config.data.image_size 64 .*config.seed 0 .*=data.image_size,seed$"):
        workdirs.prepare(str(folder), config, tokenizer)
    with pytest.raises(CommandError, match=r"--allow_changes=seed$"):
        workdirs.prepare(str(folder), config, tokenizer, "data.image_size")


def test_free_keys_leave_no_trace_in_the_history(run):
    folder, config, tokenizer = run
    config.data.threads, config.mesh.fsdp, config.accumulate = 7, 2, 2
    workdirs.prepare(str(folder), config, tokenizer)(3)
    assert not (folder / "history.jsonl").exists() and workdirs.read_config(str(folder)).data.threads == 7


def test_changes_add_up_in_the_history(run):
    folder, config, tokenizer = run
    for steps in (20, 30):
        config.total_steps = steps
        workdirs.prepare(str(folder), config, tokenizer)(3)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["changes"] for line in lines] == [{"total_steps": [6, 20]}, {"total_steps": [20, 30]}]


def test_data_are_known_by_their_contents(run, source, tmp_path_factory):
    folder, config, tokenizer = run
    moved = tmp_path_factory.mktemp("moved") / "data"
    subprocess.run(["cp", "-r", source, moved], check=True)
    config.data.source = str(moved)
    workdirs.prepare(str(folder), config, tokenizer)(3)  # elsewhere, with other times
    assert workdirs.read_config(str(folder)).data.source == str(moved)
    changed = [{**example, "captions": ["a cat"]} for example in records.read(source, "train")]
    records.write(moved, {"train": changed}, name="scenes")
    with pytest.raises(CommandError, match=r"config.data.source examples 24, .* here\..*=data.source$"):
        workdirs.prepare(str(folder), config, tokenizer)
    workdirs.prepare(str(folder), config, tokenizer, "data.source")(3)
    assert "data.source" in json.loads((folder / "history.jsonl").read_text())["changes"]


def test_a_tokenizer_of_the_same_size_is_told_from_the_stored_one(run, tmp_path_factory):
    folder, config, tokenizer = run
    other = Tokenizer.train(["cats and dogs", "dogs and cats and cows"] * 40, 270)
    same_size = Tokenizer.train(["birds and bees", "bees and birds and trees"] * 40, 270)
    assert other.vocab_size == same_size.vocab_size and other.digest != same_size.digest
    copy = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(copy)
    workdirs.prepare(str(folder), config, Tokenizer.load(str(copy), ""))(3)
    with pytest.raises(CommandError, match=f"config.data.tokenizer '{tokenizer.digest}' there, '{other.digest}' here"):
        workdirs.prepare(str(folder), config, other)
    workdirs.prepare(str(folder), config, other, "data.tokenizer")(3)
    assert Tokenizer.load("", str(folder)).digest == other.digest


def test_a_run_from_before_the_fingerprints_is_known_by_its_paths(run):
    folder, config, tokenizer = run
    os.remove(folder / "run.json")
    workdirs.prepare(str(folder), config, tokenizer)
    stored = json.loads((folder / "config.json").read_text())
    stored["data"]["source"] = "elsewhere"
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(CommandError, match="config.data.source 'elsewhere' there"):
        workdirs.prepare(str(folder), config, tokenizer)


def test_a_mistyped_key_to_allow_is_refused(run):
    folder, config, tokenizer = run
    with pytest.raises(ConfigError, match="sead is no key of the config; did you mean seed?"):
        workdirs.prepare(str(folder), config, tokenizer, "sead")


@pytest.mark.parametrize("name, text", [("config.json", "{"), ("run.json", "{"), ("tokenizer.json", "{")])
def test_a_damaged_file_is_named(run, name, text):
    folder, config, tokenizer = run
    (folder / name).write_text(text)
    with pytest.raises(CommandError, match="put back"):
        workdirs.prepare(str(folder), config, tokenizer)


def test_a_second_trainer_is_told_who_is_there(tmp_path):
    folder = tmp_path / "run"
    with workdirs.Lock(str(folder)) as lock:
        lock.take()
        with workdirs.Lock(str(folder)) as second, pytest.raises(CommandError, match=f"by process {os.getpid()} on "):
            second.take()
        assert (folder / "lock").exists()
    assert not folder.exists()  # nothing was done in it
    with workdirs.Lock(str(folder)) as lock:
        lock.take()


def test_a_killed_trainer_locks_nobody_out(tmp_path):
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1); time.sleep(99)"
    )
    (tmp_path / "lock").write_text("process 7 on a node")
    command = [sys.executable, "-u", "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with workdirs.Lock(str(tmp_path)) as lock, pytest.raises(CommandError, match="in use by process 7 on a node"):
            lock.take()
        other.kill()
    with workdirs.Lock(str(tmp_path)) as lock:
        lock.take()
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with workdirs.Lock(str(tmp_path / "file" / "run")) as lock, pytest.raises(CommandError, match="cannot be written"):
        lock.take()


@pytest.fixture
def finished(tmp_path):
    """A config file and the workdir of a run that is done, its parameters as they were drawn."""
    data = scenes.prepare(tmp_path / "data", train=8, test=8, test_unseen=0, image_size=32, processes=1)
    tokenizer = Tokenizer.train([example["captions"][0] for example in records.read(data, "train")], 300)
    tokenizer.save(data / "tokenizer.json")
    lines = "from tests.training import common\n\ndef get_config():\n    return common.small_config({!r})\n"
    (tmp_path / "small.py").write_text(lines.format(str(data)))
    config, mesh = common.small_config(str(data)), meshes.make_mesh(devices=jax.devices()[:1])
    state = states.create(runs.build_model(config, tokenizer), optimizers.make_optimizer(config), mesh, 0)
    workdirs.prepare(str(tmp_path / "run"), config, tokenizer)(0)
    with CheckpointWriter(str(tmp_path / "run")) as writer:
        writer.save(config.total_steps, state.replace(step=jnp.array(config.total_steps)), {})
    return tmp_path / "small.py", tmp_path / "run"


@pytest.mark.slow
def test_a_finished_run_survives_the_command_lines_that_are_refused(finished, source, tmp_path):
    config_file, folder = finished

    def command(module, *arguments):
        line = [sys.executable, "-m", module, f"--workdir={folder}", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def train(*arguments):
        return command("harmopower.train", f"--config={config_file}", *arguments)

    before = contents(folder)
    for setting in ("model.preset=ViT-S/16", f"data.source={source}", "evaluation.suite=retreival"):
        refused = train(f"--config.{setting}")
        assert refused.returncode == 2 and setting.partition("=")[0] in refused.stderr, refused
        assert "Traceback" not in refused.stderr and contents(folder) == before
    evaluated = command("harmopower.evaluate")
    assert evaluated.returncode == 0 and (folder / "eval.json").exists(), evaluated
    exported = command("tools.export", "--format=huggingface", f"--output={tmp_path / 'export'}")
    assert exported.returncode == 0 and (tmp_path / "export" / "model.safetensors").exists(), exported

    allowed = train("--config.seed=5", "--config.total_steps=7", "--allow_changes=seed")
    assert allowed.returncode == 0 and Checkpoints(str(folder)).steps() == [6, 7], allowed
    line = json.loads((folder / "history.jsonl").read_text())
    assert line["changes"] == {"seed": [0, 5], "total_steps": [6, 7]} and line["step"] == 6
