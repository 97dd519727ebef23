"""What a table says: its runs in order, what defines them, and what is refused before anything runs."""

import pytest

from harmopower.errors import CommandError, ConfigError
from harmopower.experiments import table as tables
from tests.experiments import common

TUNED = (
    '"tuned": Variant({"optimizer.learning_rate": 1e-4}, start="clip"), "half": Variant(between=("clip", "tuned", .5))'
)


def on_scenes(variants: str) -> dict[str, str]:
    """What `common.load` replaces so that the data name the variants that run on them."""
    return {"})},\n        variants": f"}}, variants={variants})}},\n        variants"}


def test_runs_come_seed_by_seed_each_after_what_it_needs(tmp_path):
    runs = common.load(tmp_path, more=TUNED).runs()
    variants = ("clip", "powerset", "tuned", "half")
    assert list(runs) == [f"scenes/{variant}/seed{seed}" for seed in (0, 1) for variant in variants]
    tuned, half = runs["scenes/tuned/seed1"], runs["scenes/half/seed1"]
    assert tuned.needs == ("scenes/clip/seed1",) and tuned.changes["seed"] == 1 and tuned.alpha is None
    assert half.needs == ("scenes/clip/seed1", "scenes/tuned/seed1") and half.alpha == 0.5 and half.steps == 4
    assert list(common.load(tmp_path).runs(seeds=(7,))) == ["scenes/clip/seed7", "scenes/powerset/seed7"]


def test_data_may_name_the_variants_that_run_on_them(tmp_path):
    more_data = '}), "drawings": Data({"data.source": "x"}, variants=("half", "clip", "tuned"))},\n        variants'
    replaced = {"})},\n        variants": more_data, "seeds=(0, 1)": "seeds=(0,)"}
    runs = common.load(tmp_path, more=TUNED, **replaced).runs()
    assert [name for name in runs if name.startswith("drawings")] == [
        f"drawings/{variant}/seed0" for variant in ("clip", "tuned", "half")
    ]
    assert len(runs) == 7
    alone = common.load(tmp_path, more=TUNED).runs()["scenes/clip/seed0"]
    assert runs["scenes/clip/seed0"].definition == alone.definition


def test_the_definition_is_what_can_change_a_number(tmp_path):
    def definitions(**how):
        return {name: run.definition for name, run in common.load(tmp_path, more=TUNED, **how).runs().items()}

    first = definitions()
    assert first["scenes/clip/seed0"] == first["scenes/clip/seed1"]  # the seed is the run's own name
    assert len(set(first.values())) == 4
    settings = common.load(tmp_path, more=TUNED).runs()["scenes/tuned/seed0"].settings
    assert settings["init"] == "clip" and settings["optimizer.learning_rate"] == 1e-4
    same = {'"scenes": Data({': '"scenes": Data({"data.threads": 2, "log.every_steps": 3, "checkpoint.keep": 1, '}
    assert definitions(**same) == first
    other = definitions(**{'"clip": {': '"clip": {"optimizer.b1": 0.8, '})
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {f"scenes/{name}/seed{seed}" for name in ("clip", "tuned", "half") for seed in (0, 1)}
    said = definitions(**{'"clip": {': '"clip": {"optimizer.b1": 0.9, '})  # the default of today, another one tomorrow
    assert said["scenes/clip/seed0"] != first["scenes/clip/seed0"]
    base = common.load(tmp_path).runs(changes={"total_steps": 5})["scenes/clip/seed0"]
    assert base.steps == 5 and base.definition != first["scenes/clip/seed0"] and base.settings["total_steps"] == 5


@pytest.mark.parametrize(
    "more, words",
    [
        ('"x": {"objective.powerset.wieght": 1.0}', "scenes/x/seed0: config.objective.powerset.wieght is no setting"),
        ('"x": {"objective.powerset": 1.0}', "scenes/x/seed0: config.objective.powerset is a group of settings"),
        ('"x": {"batch_size": "many"}', "scenes/x/seed0: .*batch_size"),
        ('"x": {"objective.powerset.zeta": 2.0}', "scenes/x/seed0: config.objective.powerset.zeta"),
        ('"x": {"model.pool": "max"}', "scenes/x/seed0: config.model.pool"),
        ('"x": {"evaluation.suite": "scnes"}', "scenes/x/seed0: .*scnes"),
        ('"x": {"data.regions": "random", "objective.lexeme_region.weight": 1.0}', "needs regions with texts"),
        ('"x": {"init": "runs/a"}', "scenes/x/seed0: config.init is set by the table"),
        ('"x": {"total_steps": 0, "total_epochs": 1.0}', "config.total_steps is 0; a table compares at equal steps"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_run_that_has_it(tmp_path, more, words):
    table = common.load(tmp_path, more=more)
    with pytest.raises(ConfigError, match=words):
        table.runs()


@pytest.mark.parametrize(
    "replaced, words",
    [
        ({'"powerset":': '"power/set":'}, "variants: 'power/set' may hold letters, digits"),
        ({'baselines=("clip",)': 'baselines=("clap",)'}, "baselines: 'clap' is no variant; there are clip, powerset"),
        ({'baselines=("clip",)': "baselines=()"}, "baselines: '' is no variant"),
        ({"seeds=(0, 1)": "seeds=(1, 1)"}, "there must be at least one, each once"),
        ({"seeds=": "sedes="}, "TypeError: .*sedes"),
        ({"def get_table": "def table"}, "has no get_table"),
        ({'"clip": {': '"clip": {**Variant(start="no"), '}, "TypeError"),
        (on_scenes('("clip", "lrc")'), "data 'scenes': 'lrc' is no variant; there are clip, powerset"),
        (on_scenes('("powerset",)'), "data 'scenes': 'clip', a baseline, must be among their variants"),
        ({"more": TUNED} | on_scenes('("clip", "half")'), "half needs 'tuned', which is not among their variants"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, replaced, words):
    with pytest.raises(CommandError, match=words):
        common.load(tmp_path, **replaced)


@pytest.mark.parametrize(
    "more, words",
    [
        ('"x": Variant(start="y"), "y": {}', "x needs 'y', which must stand above it"),
        ('"x": Variant(between=("clip", "powerset", 1.5))', "an alpha from 0 to 1"),
        ('"x": Variant({"batch_size": 4}, between=("clip", "powerset", 0.5))', "no settings of its own"),
    ],
)
def test_what_a_variant_starts_from_stands_above_it(tmp_path, more, words):
    with pytest.raises(CommandError, match=words):
        common.load(tmp_path, more=more)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CommandError, match=r"none.py does not exist; .* configs/experiments/"):
        tables.load(tmp_path / "none.py")
