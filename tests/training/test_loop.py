"""The loop: all objectives train, the same seed gives the same losses, a stopped run goes on to the bit."""

import numpy as np
import pytest

from harmopower import errors, runs
from harmopower.data import records
from harmopower.data.pipeline import BadDataError
from harmopower.data.scenes import builder as scenes
from harmopower.data.tokenize import Tokenizer
from harmopower.errors import CommandError, ConfigError
from harmopower.training import writers
from harmopower.training.checkpoints import Checkpoints
from harmopower.training.signals import StopSignal
from harmopower.training.watch import NonFiniteError
from tests.training import common


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return common.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """An uninterrupted run and its metrics."""
    workdir = tmp_path_factory.mktemp("whole")
    assert common.train(common.small_config(source), workdir) == 0
    return workdir, writers.read_metrics(str(workdir))


class StopAfter(StopSignal):
    """Asks to stop after so many steps, as a signal would."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def agreed(self):
        self._left -= 1
        if self._left == 0:
            self._handle(15, None)
        return self.requested()


def test_every_step_is_logged_with_every_term(whole):
    _, rows = whole
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    names = {
        "loss/total",
        "loss/global_contrastive",
        "loss/lexeme_region",
        "loss/global_region",
        "loss/powerset",
        "gradient_norm",
        "learning_rate",
        "bad_records",
        "examples_per_second",
        "examples_per_second_per_chip",
        "step_seconds_p50",
        "step_seconds_p95",
        "data_wait_share",
    }
    assert all(names <= set(row) for row in rows) and all(np.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["examples_per_second"] == 0  # the first step compiles; nothing is measured yet
    for row in rows[1:]:
        assert row["examples_per_second"] == pytest.approx(8 / row["step_seconds_p50"]) and row["data_wait_share"] <= 1


def test_the_total_is_the_weighted_sum(whole):
    for row in whole[1]:
        parts = sum(
            row[f"weight/{name}"] * row[f"loss/{name}"]
            for name in ("global_contrastive", "lexeme_region", "global_region", "powerset")
        )
        assert row["loss/total"] == pytest.approx(parts, rel=1e-5)


def test_the_same_seed_gives_the_same_losses(source, whole, tmp_path, capsys):
    common.train(common.small_config(source), tmp_path)
    assert capsys.readouterr().out.count("no peak is known of the device 'cpu'") == 1
    assert "model_flops_utilization" not in whole[1][-1]
    assert common.losses(writers.read_metrics(str(tmp_path))) == common.losses(whole[1])


def test_a_stopped_run_continues_to_the_bit(source, whole, tmp_path):
    config = common.small_config(source)
    assert common.train(config, tmp_path, stop=StopAfter(3)) == errors.STOPPED
    assert Checkpoints(str(tmp_path)).steps() == [3]
    common.train(config, tmp_path)
    assert common.losses(writers.read_metrics(str(tmp_path))) == common.losses(whole[1])


def test_a_finished_run_is_left_alone(source, whole, capsys):
    workdir, _ = whole
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert common.train(common.small_config(source), workdir) == 0
    assert common.train(common.small_config(source, evaluation__suite="other", total_steps=3), workdir) == 0
    assert capsys.readouterr().out.count("nothing to train") == 2
    with pytest.raises(CommandError, match="config.model.preset 'tiny' there, 'ViT-S/16' here"):
        common.train(common.small_config(source, model__preset="ViT-S/16"), workdir)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lexeme_region", "global_region", "powerset"])
def test_each_objective_can_be_switched_off(source, tmp_path, name):
    config = common.small_config(source, total_steps=3)
    config.objective[name].weight = 0.0
    common.train(config, tmp_path)
    assert f"loss/{name}" not in writers.read_metrics(str(tmp_path))[-1]


@pytest.mark.slow
def test_sigmoid_with_crops_and_own_temperature_trains(source, tmp_path):
    config = common.small_config(
        source, total_steps=3, objective__global_region__mode="crop", objective__lexeme_region__temperature="own"
    )
    config.objective.global_contrastive.kind = "sigmoid"
    common.train(config, tmp_path)
    assert len(writers.read_metrics(str(tmp_path))) == 3


def test_a_non_finite_loss_names_the_term_and_keeps_the_good_checkpoint(source, tmp_path):
    config = common.global_config(source, total_steps=5)
    config.objective.powerset.weight = 0.2
    common.train(config, tmp_path, stop=StopAfter(2))
    config.objective.powerset.margin = float("inf")
    config.optimizer.max_bad_updates = 1
    with pytest.raises(NonFiniteError, match="step 3: .*loss/powerset = "):
        common.train(config, tmp_path, allow="objective.powerset.margin")
    assert Checkpoints(str(tmp_path)).steps() == [2]


def test_the_best_checkpoint_is_the_one_that_was_evaluated(source, tmp_path):
    config = common.global_config(source, checkpoint__every_steps=1, checkpoint__keep=1, checkpoint__best="r1")
    config.evaluation.every_steps = 4  # at 4 and at the end; the saves in between have no metric
    found = {0: 0.0, 4: 0.9, 6: 0.3}
    common.train(config, tmp_path, evaluate=lambda params, step: {"r1": found[step]})
    checkpoints = Checkpoints(str(tmp_path))
    assert [(step, checkpoints.metrics(step)) for step in checkpoints.steps()] == [(4, {"r1": 0.9}), (6, {"r1": 0.3})]
    evaluations = {
        row["step"]: row["evaluation/r1"] for row in writers.read_metrics(str(tmp_path)) if "evaluation/r1" in row
    }
    assert evaluations == {4: 0.9, 6: 0.3}


def test_what_is_evaluated_is_saved(source, tmp_path):
    config = common.global_config(source, evaluation__every_steps=2, checkpoint__every_steps=100, checkpoint__keep=9)
    config.evaluation.light_every_steps = 3
    look = lambda params, step: {"light/records/r1": step / 10}
    common.train(config, tmp_path, evaluate=lambda params, step: {"r1": float(step)}, look=look)
    checkpoints = Checkpoints(str(tmp_path))
    assert {step: checkpoints.metrics(step) for step in checkpoints.steps()} == {n: {"r1": n} for n in (2, 4, 6)}
    rows, name = writers.read_metrics(str(tmp_path)), "evaluation/light/records/r1"
    assert {row["step"]: row[name] for row in rows if name in row} == {3: 0.3, 6: 0.6}  # a look is no reason to save


class CutShort:
    """An evaluation that a stop cuts short at some steps, once each; `r1` of the others."""

    def __init__(self, stop, *steps):
        self._stop, self._steps, self.made = stop, list(steps), []

    def __call__(self, params, step):
        if step in self._steps:
            self._steps.remove(step)
            self._stop._handle(15, None)
            return {}
        self.made.append(step)
        return {"r1": 1.0 - step / 10}


@pytest.mark.parametrize("last", [pytest.param(4, marks=pytest.mark.slow), 6])
def test_an_evaluation_that_a_stop_cut_short_is_made_when_the_run_goes_on(source, tmp_path, last):
    config = common.global_config(source, total_steps=last, checkpoint__best="r1", checkpoint__keep=1)
    config.evaluation.every_steps, config.checkpoint.every_steps = 4, 1
    stop = StopSignal()
    assert common.train(config, tmp_path, stop=stop, evaluate=CutShort(stop, 4)) == errors.STOPPED
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.steps() == [4] and not checkpoints.metrics(4)
    stop = StopSignal()  # cut short again: no step is taken, which would leave the evaluation behind
    assert common.train(config, tmp_path, stop=stop, evaluate=CutShort(stop, 4)) == errors.STOPPED
    assert checkpoints.steps() == [4] and not checkpoints.metrics(4)

    evaluate = CutShort(None)
    assert common.train(config, tmp_path, evaluate=evaluate) == 0
    assert evaluate.made == sorted({4, last})
    # Of 4 and 6 the first is the better one, so that it stays although one alone is to be kept.
    assert {step: checkpoints.metrics(step) for step in checkpoints.steps()} == {
        n: {"r1": 1 - n / 10} for n in {4, last}
    }
    rows = writers.read_metrics(str(tmp_path))
    assert {row["step"]: row["evaluation/r1"] for row in rows if "evaluation/r1" in row} == {
        n: 1 - n / 10 for n in {4, last}
    }
    assert [row["step"] for row in rows if "loss/total" in row] == list(range(1, last + 1))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert common.train(config, tmp_path, evaluate=evaluate) == 0 and evaluate.made == sorted({4, last})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unknown_best_is_refused_before_the_first_step(source, tmp_path):
    config = common.global_config(source, checkpoint__best="retrieval/r2")
    with pytest.raises(ConfigError, match="checkpoint.best 'retrieval/r2' is no metric .* mean 'retrieval/r1'"):
        common.train(config, tmp_path, evaluate=lambda params, step: {"retrieval/r1": 0.5})
    with pytest.raises(ConfigError, match="there are: none"):
        common.train(config, tmp_path)
    assert not Checkpoints(str(tmp_path)).steps() and not writers.read_metrics(str(tmp_path))


def test_too_many_bad_records_save_the_state_and_stop(tmp_path, capsys):
    source = common.prepare(tmp_path / "data", image=b"broken")
    with pytest.raises(BadDataError, match="1 of 24 examples .* config.data.max_bad_fraction 0.01"):
        common.train(common.global_config(source), tmp_path / "run")
    assert Checkpoints(str(tmp_path / "run")).steps() == [
        4
    ]  # judged after an epoch, whose last metrics come a step late
    rows = writers.read_metrics(str(tmp_path / "run"))
    assert sum(row["bad_records"] for row in rows[:3]) == 1
    printed = capsys.readouterr().out
    assert printed.index("compiling the train step") < printed.index("compiled in ")


def test_the_first_step_is_always_logged(source, tmp_path):
    common.train(common.global_config(source, log__every_steps=4), tmp_path)
    assert [row["step"] for row in writers.read_metrics(str(tmp_path))] == [1, 4, 6]


def test_data_that_do_not_fill_a_batch_are_named(source):
    config = common.small_config(source)
    assert runs.few_examples(config, config.batch_size) == ""
    words = f"{config.batch_size - 1} training examples are fewer than config.batch_size {config.batch_size}: "
    assert runs.few_examples(config, config.batch_size - 1).startswith(words)


def test_an_objective_that_no_record_serves_is_refused_at_the_start(tmp_path):
    """All of so few records are looked at; of many, a sample, and `log.dead_after` judges the rest."""
    example = scenes.make_example("train", 0, image_size=32)
    nothing = dict(caption=-1, start=-1, end=-1, text="", label="")
    for regions, words in (
        ([], "powerset.weight is 0.2, but none of the 1 records .* has regions; set the weight to 0"),
        ([example["regions"][0] | nothing], "lexeme_region.weight is 0.1, but none .* a span, a text or a label"),
    ):
        records.write(tmp_path, {"train": [example | {"regions": regions}]}, name="scenes")
        Tokenizer.train(example["captions"], 320, tmp_path / "tokenizer.json")
        config = common.small_config(str(tmp_path), objective__global_region__weight=0.0)
        config.objective.lexeme_region.weight = 0.1 if regions else 0.0
        with pytest.raises(ConfigError, match=words):
            runs.open_data(config)
    records.write(
        tmp_path,
        {"train": [example | {"regions": [example["regions"][0] | nothing | {"label": "dog"}]}]},
        name="scenes",
    )
    assert runs.open_data(config)[1].alone_text
