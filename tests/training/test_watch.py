"""What the loop concludes from the numbers of its steps: bad updates, objectives without a pair, bad records."""

import json
import math

import pytest

from harmopower.config import get_config
from harmopower.training.watch import DeadObjectiveError, NonFiniteError, Watch

SOUND = {"loss/total": 1.0, "skipped_updates": 0.0, "bad_records": 0.0}
BAD = {"loss/total": math.nan, "loss/powerset": math.inf, "skipped_updates": 1.0, "bad_records": 0.0}


def watch(tmp_path, said=None, **settings):
    config = get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    say = said.append if said is not None else None
    return Watch(config, str(tmp_path), say, lambda step: [f"{step}-{row}" for row in range(7)])


def test_a_skipped_update_is_counted_and_its_records_are_named(tmp_path):
    said = []
    seen = watch(tmp_path, said)
    for step, values in enumerate([SOUND, BAD, SOUND, BAD], 1):
        seen.see(step, values)
    assert (seen.take_skipped(), seen.take_skipped()) == (2, 0)
    assert len(said) == 2
    for part in ("step 2: update skipped", "loss/total = nan, loss/powerset = inf", "1-0, 1-1", "1-4 and 2 more"):
        assert part in said[0]
    rows = [json.loads(line) for line in (tmp_path / "skipped_updates.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and rows[1]["ids"] == [f"3-{row}" for row in range(7)]


def test_only_bad_updates_in_a_row_stop_the_run(tmp_path):
    seen = watch(tmp_path, optimizer__max_bad_updates=3)
    for step, values in enumerate([BAD, BAD, SOUND, BAD, BAD], 1):
        seen.see(step, values)
    with pytest.raises(NonFiniteError, match="step 6: loss/total = nan, loss/powerset = inf.* 3 bad updates in a row"):
        seen.see(6, BAD)
    assert not list(tmp_path.iterdir())  # a process that tells nothing writes nothing either


def test_an_objective_without_a_pair_stops_the_run(tmp_path):
    seen = watch(tmp_path, log__dead_after=3)
    for step, pairs in enumerate([0, 0, 5, 0, 0], 1):
        seen.see(step, SOUND | {"lexeme_region/pairs": pairs, "powerset/pairs": 1.0})
    with pytest.raises(DeadObjectiveError) as error:
        seen.see(6, SOUND | {"lexeme_region/pairs": 0.0, "powerset/pairs": 1.0})
    assert error.value.exit_code == 65
    for part in (
        "lexeme_region has had no pair for 3 steps",
        "span, a text or a label",
        "objective.lexeme_region.weight",
    ):
        assert part in str(error.value)


def test_zero_never_calls_an_objective_dead(tmp_path):
    seen = watch(tmp_path, log__dead_after=0)
    for step in range(200):
        seen.see(step, SOUND | {"powerset/pairs": 0.0})


def test_bad_records_of_all_processes_are_summed(tmp_path):
    """The metric is a sum over the global batch: no process needs to ask another."""
    seen = watch(tmp_path, batch_size=8)
    for step, bad in enumerate((0.0, 3.0, 1.0), 1):
        seen.see(step, SOUND | {"bad_records": bad})
    assert (seen.seen, seen.bad) == (24, 4)


def test_a_collapsed_term_is_said_once_a_collapse(tmp_path):
    """By means over so many steps after the warm-up; a term at home in a lively state is left alone."""
    said = []
    seen = watch(tmp_path, said, log__dead_after=3, objective__powerset__warmup_steps=2)
    alike = {"powerset/gap": -0.018, "powerset/active": 0.96, "powerset/spread": 0.01}
    above, below = {"powerset/gap": -0.03}, {"powerset/gap": -0.005}  # single steps on both sides of the limit, 0.02
    living = [{"powerset/gap": -0.5}, {"powerset/active": 0.5}]
    around = {"powerset/active": 0.9}  # the mean of three, 0.94, is below the limit, 0.95, and not as alive as 0.9
    rows = [{}, {}, above, {}, {}, below, above, {}, living[0], {}, {}, {}, living[1], {}, {}, {}, around, {}, {}, {}]
    for step, values in enumerate(rows, 1):
        seen.see(step, SOUND | alike | values)
    assert [line.partition(":")[0] for line in said] == ["step 6", "step 12", "step 16"]
    for part in ("powerset has collapsed", "powerset.margin (0.2)", "gap -0.0137", "spread of all scores 0.01"):
        assert part in said[0]
    said.clear()
    seen = watch(tmp_path, said, log__dead_after=1, objective__powerset__negatives="semi_hard")
    for step, spread in enumerate([0.3, 0.1], 1):  # near as the choice makes it, and then with all scores alike
        seen.see(step, SOUND | alike | {"powerset/spread": spread})
    assert [line.partition(":")[0] for line in said] == ["step 2"]
    silent = watch(tmp_path, said, log__dead_after=0)
    for step in range(1, 9):
        silent.see(step, SOUND | alike)
    assert len(said) == 1
