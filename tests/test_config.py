"""The config: what is refused, and that a stored config reads back as it was."""

import json
import pathlib

from absl import flags
from ml_collections import config_flags
import pytest

from harmopower import config as configs
from harmopower import settings as kinds
from harmopower.errors import ConfigError

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs" / "scenes.py"


TEACHES = {"objective__global_region__weight": 1.0, "objective__global_region__mode": "crop"}


def changed(**settings):
    config = configs.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return config


@pytest.mark.parametrize(
    "settings, devices, words",
    [
        (dict(batch_size=100), 8, ["config.batch_size 100", "8 devices", "multiple of 8"]),
        (dict(batch_size=96, accumulate=5), 1, ["config.batch_size 96", "5 slices"]),
        (
            dict(batch_size=96, accumulate=2, data__region_text_every=9),
            1,
            ["batch_size 96", "2 slices", "9 images", "of 18"],
        ),
        (dict(model__pool="max"), 1, ["config.model.pool 'max'", "cls, mean"]),
        (dict(objective__powerset__method="exakt"), 1, ["did you mean 'exact'"]),
        (dict(total_steps=50), 1, ["warmup_steps 100", "total_steps 50"]),
        (dict(total_epochs=2.0), 1, ["config.total_steps 1000 and config.total_epochs 2.0", "all but one"]),
        (dict(total_steps=0), 1, ["config.total_steps, total_examples and total_epochs are all 0"]),
        (dict(optimizer__cooldown_epochs=1.0), 1, ["schedule cosine", "optimizer.cooldown_epochs is 1.0"]),
        (
            dict(optimizer__schedule="constant", optimizer__cooldown_steps=950),
            1,
            ["warmup_steps 100", "cooldown_steps 950", "total_steps 1000"],
        ),
        (dict(objective__powerset__temperature=0.0), 1, ["config.objective.powerset.temperature 0.0"]),
        (dict(optimizer__learning_rate=float("nan")), 1, ["config.optimizer.learning_rate nan"]),
        (dict(model__patch_dropout=1.0), 1, ["config.model.patch_dropout 1.0", "from 0 to 0.95"]),
        (
            dict(objective__powerset__method="exact", data__max_boxes=13),
            1,
            ["config.data.max_boxes 13", "12", "objective.powerset.method"],
        ),
        (
            dict(TEACHES, objective__global_region__teacher="ema"),
            1,
            ["global_region.teacher is ema", "config.optimizer.ema 0.0", "set config.optimizer.ema=0.999"],
        ),
        (
            dict(TEACHES, objective__global_region__teacher="start"),
            1,
            ["global_region.teacher is start", "config.init is empty"],
        ),
        (dict(model__attention="cudnn"), 1, ["config.model.attention", "config.model.dtype is float32"]),
    ],
)
def test_refuses_with_key_and_both_values(settings, devices, words):
    with pytest.raises(ConfigError) as error:
        configs.validate(changed(**settings), devices)
    assert all(word in str(error.value) for word in words), error.value


def test_refuses_a_run_without_objectives():
    config = configs.get_config()
    for name in configs.OBJECTIVES:
        config.objective[name].weight = 0.0
    with pytest.raises(ConfigError, match="nothing to train on"):
        configs.validate(config, 1)


def test_defaults_are_valid():
    configs.validate(configs.get_config(), 8, 2)


def test_a_teacher_that_is_there_or_that_nobody_asks_is_valid():
    for settings in (
        dict(TEACHES, objective__global_region__teacher="ema", optimizer__ema=0.99),
        dict(TEACHES, objective__global_region__teacher="start", init="runs/init/b16"),
        dict(TEACHES, objective__global_region__teacher="start", objective__global_region__weight=0.0),
        dict(TEACHES, objective__global_region__teacher="ema", objective__global_region__mode="text"),
    ):
        configs.validate(changed(**settings), 1)


def test_json_round_trip():
    config = changed(batch_size=64, model__pool="mean")
    again = configs.from_json(configs.to_json(config))
    assert kinds.differences(config, again) == []
    assert again.batch_size == 64 and again.model.pixel_mean == config.model.pixel_mean


def test_differences_name_the_key_and_both_values():
    assert kinds.differences(configs.get_config(), changed(batch_size=64)) == ["config.batch_size: 128 -> 64"]


def test_old_workdirs_still_load():
    """`objective.global`, settings that were lists, and one that is gone, as config.json held them."""
    stored = json.loads(configs.to_json(configs.get_config()))
    stored["objective"]["global"] = {"kind": "sigmoid", "weight": 0.5}
    del stored["objective"]["global_contrastive"]
    stored["model"]["pixel_mean"] = [0.1, 0.2, 0.3]
    stored["objective"]["lexeme_region"]["own_text"] = True
    config = configs.from_json(json.dumps(stored))
    assert config.objective.global_contrastive.to_dict() == {"kind": "sigmoid", "weight": 0.5}
    assert "own_text" not in config.objective.lexeme_region
    assert "global" not in config.objective and kinds.numbers(config.model.pixel_mean) == (0.1, 0.2, 0.3)


def from_flag(key, value):
    """The config after `--config.KEY=VALUE`, through the parser that the commands use."""
    values, argv = flags.FlagValues(), ["train", f"--config={QUICKSTART}", f"--config.{key}={value}"]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return values.config


def flat(config):
    return configs.flat(config.to_dict())


@pytest.mark.parametrize("key", configs.SETTINGS)
def test_a_flag_sets_every_key(key):
    setting = configs.SETTINGS[key]
    for value in (setting.default, another(setting)):
        found = flat(from_flag(key, value))[key]
        assert found == value and type(found) is type(setting.default)
        assert setting.legal.accepts(found)


def another(setting):
    """A legal value that is not the default."""
    match setting.legal:
        case kinds.Switch():
            return not setting.default
        case kinds.Choice(choices=choices):
            return next(choice for choice in choices if choice != setting.default)
        case kinds.Numbers():
            return "0.25,0.5,0.75"
        case kinds.Text():
            return "another"
        case kinds.Whole(lowest=lowest) | kinds.Real(lowest=lowest):
            return type(setting.default)(setting.legal.highest if lowest == setting.default else lowest)


@pytest.mark.parametrize("key", configs.SETTINGS)
def test_every_key_has_a_legal_default_and_a_meaning(key):
    setting = configs.SETTINGS[key]
    assert setting.legal.accepts(setting.default) and setting.meaning and str(setting.legal)
    assert key in configs.described()


def test_a_key_without_a_row_in_the_table_is_refused():
    config = configs.get_config()
    assert flat(config).keys() == configs.SETTINGS.keys()
    config.model.presett = "tiny"
    with pytest.raises(ConfigError, match="config.model.presett is no setting; did you mean config.model.preset?"):
        configs.validate(config, 1)


def test_a_stored_config_of_a_newer_version_is_refused():
    stored = json.loads(configs.to_json(configs.get_config()))
    stored["model"]["experts"] = 8
    with pytest.raises(ConfigError, match="config.model.experts is no setting"):
        configs.from_json(json.dumps(stored))


def test_runs_older_than_clean_text_go_on_without_it():
    stored = json.loads(configs.to_json(configs.get_config()))
    assert configs.from_json(json.dumps(stored)).data.clean_text
    del stored["data"]["clean_text"]
    assert not configs.from_json(json.dumps(stored)).data.clean_text


def test_random_regions_have_no_texts_to_compare():
    """Boxes that are drawn name nothing: LRC and GR by text would be silently dead."""
    for key in ("lexeme_region", "global_region"):
        config = changed(**{"data.regions": "random", "objective.lexeme_region.weight": 0.0})
        config.objective[key].weight = 0.5
        with pytest.raises(ConfigError, match=f"config.objective.{key}.weight 0.5 .* config.data.regions 'random'"):
            configs.validate(config, 1)
    config.objective.global_region.mode = "crop"
    configs.validate(config, 1)


def test_a_prompt_says_where_the_label_goes():
    with pytest.raises(ConfigError, match="config.data.label_prompt 'a photo' has no {}"):
        configs.validate(changed(**{"data.label_prompt": "a photo"}), 1)
    configs.validate(changed(**{"data.label_prompt": "a photo of a {}|a {}"}), 1)
    with pytest.raises(ConfigError, match="config.data.label_prompt '' has no {}"):
        configs.validate(changed(**{"data.label_prompt": "a photo of a {}|"}), 1)
