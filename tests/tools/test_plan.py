"""The plan: its parts add up, it finds a setting that fits, and the command line says what is wrong."""

import functools
import json
from pathlib import Path
import subprocess
import sys

import jax
import pytest

from harmopower import config as configs
from harmopower import runs
from harmopower.training import accounting, planning

CONFIGS = Path(__file__).parents[2] / "configs"
make_model = functools.partial(runs.build_model, tokenizer=None)


def tiny(**settings):
    """The tiny preset without data, on the devices of the test."""
    config = configs.load(CONFIGS / "scenes.py")
    config.data.source = ""
    config.model.scan_unroll, config.optimizer.name = 1, "adamw"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


@pytest.fixture(scope="module")
def found():
    return planning.plan(tiny(), "v5e", make_model)


def test_the_parts_of_a_plan_add_up(found):
    memory, config = found["memory_a_device"], tiny()
    assert found["fits"] == "yes" and "would_fit" not in found
    assert found["parameters"] == sum(
        leaf.size for leaf in jax.tree.leaves(planning.Step(config, make_model)._state.params)
    )
    assert memory["gradients"] == 4 * found["parameters"]
    # Two moments in float32 beside the parameters, and the counters.
    assert 12 * found["parameters"] <= memory["state"] <= 12 * found["parameters"] + 100
    assert memory["batch"] >= config.batch_size * 64 * 64 * 3
    assert 0 < memory["losses"] < memory["temporary"] and memory["activations"] < memory["temporary"]
    assert memory["high"] == memory["state"] + memory["batch"] + memory["temporary"] >= memory["low"]


def test_the_floor_is_operations_over_peak(found):
    flops = sum(accounting.step_flops(tiny(), hardware=True).values())
    assert found["flops"]["hardware"] == flops
    assert found["floor_seconds"] == pytest.approx(flops / (197e12 * jax.device_count()))
    assert found["examples_per_second_at_peak"] == pytest.approx(64 / found["floor_seconds"])


def test_a_plan_says_how_shards_meet(found):
    """The tiny preset has D = 128; regions and texts are float32."""
    counted = {"global_contrastive": 64, "lexeme_region": 64 * 4, "global_region": 64 * 1, "powerset": 64 * 4}
    expected = {name: {"way": "gather", "bytes": rows * 128 * 8} for name, rows in counted.items()}
    assert found["communication"] == expected
    crops = tiny(**{"objective.communication": "ring", "objective.global_region.mode": "crop"})
    ways = {name: way for name, (way, _) in planning.Step(crops, make_model).meetings().items()}
    assert ways == dict.fromkeys(expected.keys() - {"global_region"}, "ring")


def test_remat_and_slices_keep_less():
    kept = [
        planning.Step(tiny(**settings), make_model).activations()
        for settings in ({}, {"accumulate": 2}, {"model.remat": "full"}, {"model.patch_dropout": 0.5})
    ]
    assert kept[1] < 0.6 * kept[0] and kept[2] < 0.3 * kept[0] and kept[3] < kept[0]


def test_a_device_with_less_than_a_group_of_images_that_take_turns_is_counted_with_one():
    group = planning.Step(tiny(**{"batch_size": 4, "data.region_text_every": 4}), make_model)
    alone = planning.Step(tiny(batch_size=1, **{"data.region_text_every": 1}), make_model)
    alone.config.data.region_text_every = 4  # one row a device, as on a mesh that spreads a group over four
    assert alone.activations() == group.activations()


@pytest.mark.slow
def test_a_chip_that_is_too_small_gets_the_first_setting_that_fits(found, monkeypatch):
    """The lower end rules out the run as it is; with remat the compiled step fits."""
    memory = found["memory_a_device"]
    small = accounting.Chip(1e12, (memory["low"] - 1) / planning.USABLE, ())
    monkeypatch.setitem(accounting.CHIPS, "small", small)
    plan = planning.plan(tiny(), "small", make_model)
    assert plan["fits"] == "no" and plan["largest"] == "activations" and plan["would_fit"] == {"model.remat": "full"}


def test_nothing_fits_where_the_state_alone_does_not(found):
    memory = planning.Memory(**{name: found["memory_a_device"][name] for name in planning.Memory._fields})
    chip = accounting.Chip(1e12, memory.state / 2, ())
    assert planning.verdict(memory, chip) == "no"
    assert planning.first_fit(tiny(), memory, chip, make_model) is None


def test_candidates_keep_what_is_set_and_shard_last():
    settings = list(planning.candidates(tiny(**{"model.remat": "full"}), devices=4))
    assert settings[:4] == [{"accumulate": 2}, {"accumulate": 4}, {"accumulate": 8}, {"mesh.data": -1, "mesh.fsdp": 2}]
    assert settings[-1] == {"mesh.data": -1, "mesh.fsdp": 4, "accumulate": 8} and len(settings) == 11


def command(*arguments):
    config = f"--config={CONFIGS / 'scenes.py'}"
    return subprocess.run(
        [sys.executable, "-m", "tools.plan", config, *arguments], capture_output=True, text=True, cwd=CONFIGS.parent
    )


@pytest.mark.slow
def test_sharding_divides_the_state_over_forced_devices(found):
    run = command(
        "--devices=2",
        "--chip=v5e",
        "--json",
        "--config.data.source=",
        "--config.mesh.fsdp=2",
        "--config.model.scan_unroll=1",
    )
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)
    assert plan["devices"] == 2 and plan["parameters"] == found["parameters"]
    assert plan["memory_a_device"]["state"] < 0.6 * found["memory_a_device"]["state"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--chip=abacus"], ["abacus", *accounting.CHIPS]),
        (["--devices=3"], ["batch_size 64", "3 devices", "multiple of 3"]),
        (["--devices=2", "--config.mesh.fsdp=3"], ["fsdp", "there are 2"]),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(arguments, words):
    run = command(*arguments)
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.returncode == 2 and len(lines) == 1 and "Traceback" not in run.stderr, run.stderr
    assert all(word in lines[0] for word in words), lines
