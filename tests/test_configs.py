"""Every file in `configs/` loads from any folder, is valid on one node and on a pod, and builds the model it means."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections.config_flags import config_flags
import pytest

from harmopower import config as configs
from harmopower import durations, settings
from harmopower.errors import ConfigError
from harmopower.models import clip
from harmopower.objectives import total
from harmopower.training import groups
from harmopower.training import state as states

FILES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))}
LARGE = sorted(FILES.keys() - {"scenes"})
CLIP_VOCABULARY = 49_408
CLIP_VIT_B16_PARAMETERS = 149_620_737
CLIP_VIT_L14_336_PARAMETERS = 427_944_193


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(name):
    objective = configs.load(FILES[name]).objective
    return {term: objective[term].weight for term in configs.OBJECTIVES if objective[term].weight}


def test_the_runs_of_the_readme_are_there():
    assert FILES.keys() >= {
        "scenes",
        "cc12m_clip_vitb16",
        "cc12m_clip_meanpool_vitb16",
        "cc12m_powerclip_vitb16",
        "cc12m_powerclip_vitb16_boxes",
        "cc12m_harmopower_vitb16",
        "datacomp_sigmoid_vitb16",
        "coco_harmoclip_vitb16",
        "coco_harmoclip_vitl14_336",
        "flickr30k_harmoclip_vitb16",
        "coco_clipself_vitb16",
        "coco_fineclip_vitb16",
        "grit_harmopower_vitb16",
        "cc12m_openclip_parity_vitb16",
    }


@pytest.mark.parametrize("name", FILES)
def test_is_valid_on_8_and_64_devices(name):
    config = configs.load(FILES[name])
    many = 64 if config.batch_size % 64 == 0 else 16  # a batch of 16 is for two nodes at most
    for devices, processes in ((8, 1), (many, 8)):
        configs.validate(config, devices, processes)
    assert settings.differences(config, configs.from_json(configs.to_json(config))) == []


@pytest.mark.parametrize("name", FILES)
def test_the_config_flag_reads_the_same(name):
    flag = config_flags.ConfigFileFlagParser("config").parse(str(FILES[name]))
    assert settings.differences(flag, configs.load(FILES[name])) == []


@pytest.mark.parametrize("name", LARGE)
def test_has_clips_shapes(name):
    config = configs.load(FILES[name])
    model = clip.from_config(config, CLIP_VOCABULARY, CLIP_VOCABULARY - 1, total.scales(config.objective))
    side = config.data.image_size
    inputs = jnp.zeros((1, side, side, 3), jnp.uint8), jnp.zeros((1, 77), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
    bias = config.objective.global_contrastive.kind == "sigmoid"
    positions = 768 * ((side // 16) ** 2 - 14**2)  # those of ViT-B/16 at another size than 224
    expected = CLIP_VIT_L14_336_PARAMETERS if "vitl14_336" in name else CLIP_VIT_B16_PARAMETERS + bias + positions
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected


def test_cc12m_has_the_papers_schedule():
    for name in LARGE:
        if name.startswith("cc12m"):
            config = configs.load(FILES[name])
            assert (config.batch_size, config.total_steps, config.optimizer.warmup_steps) == (4096, 85_691, 10_000)
            settings = [config.optimizer[key] for key in ("learning_rate", "b1", "b2", "weight_decay")]
            assert settings == [1e-3, 0.9, 0.98, 0.2], name


def test_runs_differ_in_what_their_names_say():
    for name in ("cc12m_clip_vitb16", "cc12m_clip_meanpool_vitb16"):
        assert weights(name) == {"global_contrastive": 1.0}
    for name in ("cc12m_powerclip_vitb16", "cc12m_powerclip_vitb16_boxes"):
        assert weights(name) == {"global_contrastive": 1.0, "powerset": 0.2}
    assert weights("cc12m_harmopower_vitb16").keys() == {
        "global_contrastive",
        "lexeme_region",
        "global_region",
        "powerset",
    }
    needs = total.active(configs.load(FILES["cc12m_clip_vitb16"]).objective)
    assert not any(needs)

    def changes(old, new):
        return settings.differences(configs.load(FILES[old]), configs.load(FILES[new]))

    assert changes("cc12m_clip_vitb16", "cc12m_clip_meanpool_vitb16") == ["config.model.pool: 'cls' -> 'mean'"]
    assert changes("cc12m_clip_meanpool_vitb16", "cc12m_powerclip_vitb16") == [
        "config.data.regions: 'boxes' -> 'random'",
        "config.objective.powerset.score_norm: 'sum' -> 'mean'",
        "config.objective.powerset.weight: 0.0 -> 0.2",
    ]
    assert changes("cc12m_powerclip_vitb16", "cc12m_powerclip_vitb16_boxes") == [
        "config.data.regions: 'random' -> 'boxes'"
    ]


def test_fine_tuning_has_the_published_recipes():
    harmo, fine, own = (configs.load(FILES[f"coco_{name}_vitb16"]) for name in ("harmoclip", "fineclip", "clipself"))
    for config in (harmo, fine):
        assert (config.batch_size, config.total_epochs, config.optimizer.warmup_steps) == (256, 10, 1000)
    for config in (harmo, fine, own):
        assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-5, 0.1)
        assert config.init and config.model.dense == "value" and config.objective.region_pooling == "roi_align"
    assert (own.batch_size, own.total_epochs, own.data.image_size) == (16, 6, 1024)
    assert [config.data.resize_mode for config in (harmo, fine, own)] == ["squash", "squash", "letterbox"]
    assert weights("coco_clipself_vitb16") == {"global_region": 1.0}
    terms = {"global_contrastive": 1.0, "lexeme_region": 1.0, "global_region": 1.0}
    assert weights("coco_harmoclip_vitb16") == weights("coco_fineclip_vitb16") == terms
    assert [config.objective.global_region.mode for config in (harmo, fine, own)] == ["text", "crop", "crop"]
    assert [config.objective.global_region.teacher for config in (fine, own)] == ["self", "start"]
    assert own.objective.global_region.crop_size == 224 and own.data.resize_mode == "letterbox"
    for config in (fine, own):  # open_clip's, whose trainer both have
        assert (config.optimizer.epsilon, config.optimizer.clip_norm, config.data.max_boxes) == (1e-6, 0, 20)
    durations.in_steps(harmo, examples=118_287)
    assert harmo.total_steps == 4620
    flickr = configs.load(FILES["flickr30k_harmoclip_vitb16"])
    durations.in_steps(flickr, examples=29_783)
    assert flickr.total_steps == 1163
    for name in LARGE:
        groups.parse(configs.load(FILES[name]).optimizer.groups)


def test_clipself_trains_the_blocks_of_the_image_tower_alone():
    config = configs.load(FILES["coco_clipself_vitb16"])
    model = clip.from_config(config, CLIP_VOCABULARY, CLIP_VOCABULARY - 1, total.scales(config.objective))
    for key, factors in groups.factors(config.optimizer, states.shapes(model)).items():
        assert (factors == (key[:3] == ("vision", "transformer", "blocks"))).all(), key


def test_parity_with_open_clip():
    ours, theirs = (configs.load(FILES[f"cc12m_{name}_vitb16"]) for name in ("clip", "openclip_parity"))
    assert settings.differences(ours, theirs) == [
        "config.data.crop_aspect: 'relative' -> 'absolute'",
        "config.data.resize_mode: 'squash' -> 'shortest'",
        "config.model.activation: 'quick_gelu' -> 'gelu'",
        "config.model.position_init: 'sincos' -> 'noise'",
        "config.optimizer.clip_norm: 1.0 -> 0.0",
        "config.optimizer.epsilon: 1e-08 -> 1e-06",
    ]


def test_what_is_no_config_is_refused(tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    for path, words in ((tmp_path / "none.py", "does not exist"), (empty, "has no get_config")):
        with pytest.raises(ConfigError, match=words):
            configs.load(path)
