"""The configuration of a run: every key, its default and its meaning, in one place.

A file in `configs/` starts from `get_config()` and states the difference. Command-line overrides (`--config.a.b=1`) are
applied by ml_collections on top, so a key that is not here cannot be set by mistake.
"""

import difflib
import json
import math
import os
import runpy

from ml_collections import ConfigDict

from harmopower.errors import ConfigError

CHOICES = {
    "data.regions": ("boxes", "random", "mixed"),
    "data.resize_mode": ("squash", "shortest"),
    "model.pool": ("cls", "mean"),
    "model.text_pool": ("auto", "eos", "mean"),
    "model.dense": ("full", "value"),
    "model.activation": ("gelu", "gelu_tanh", "quick_gelu"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "full"),
    "model.attention": ("xla", "cudnn"),
    "objective.region_pooling": ("cover", "overlap", "roi_align"),
    "objective.communication": ("ring", "gather"),
    "objective.global_contrastive.kind": ("softmax", "sigmoid"),
    "objective.lexeme_region.temperature": ("shared", "own"),
    "objective.lexeme_region.duplicates": ("positives", "ignore"),
    "objective.global_region.mode": ("text", "crop"),
    "objective.global_region.temperature": ("shared", "own"),
    "objective.global_region.duplicates": ("positives", "ignore"),
    "objective.powerset.method": ("exact", "nla", "sampled"),
    "objective.powerset.phrase_norm": ("sum", "unit"),
    "objective.powerset.score_norm": ("sum", "mean"),
    "optimizer.name": ("adamw", "muon"),
}
LOWEST = {
    "total_steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "data.image_size": 1,
    "data.context_length": 3,  # start, one token, end
    "data.max_phrases": 1,
    "data.max_boxes": 1,
    "evaluation.candidates": 1,
    "evaluation.batch_size": 1,
    "data.group_size": 1,
    "data.max_region_texts": 0,
    "data.region_text_every": 1,
    "data.workers": 0,
    "data.rows_per_element": 1,
    "data.ahead_mib": 1,
    "data.max_bad_fraction": 0,
    "objective.powerset.temperature": 1e-9,
    "objective.powerset.samples": 1,
    "objective.powerset.margin": 0,
    "model.patch_dropout": 0,
    "optimizer.learning_rate": 0,
    "optimizer.warmup_steps": 0,
    "mesh.tensor": 1,
    "checkpoint.keep": 1,
    "log.every_steps": 1,
}
BELOW = {"model.patch_dropout": 1}
RENAMED = {"objective.global": "objective.global_contrastive"}  # what workdirs of older versions hold


def get_config() -> ConfigDict:
    """Returns the defaults; config files change what they need."""
    config = ConfigDict()
    config.seed = 0
    config.total_steps = 1000
    config.batch_size = 128  # global: over all devices and all accumulation slices
    config.accumulate = 1  # slices of the global batch, with exact gradients
    config.init = ""  # a checkpoint to start from; empty = random
    config.data = _data()
    config.model = _model()
    config.objective = _objective()
    config.optimizer = _optimizer()
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))  # -1: the devices that are left
    config.checkpoint = ConfigDict(dict(every_steps=1000, every_minutes=30.0, keep=2, best=""))  # best: a metric
    config.evaluation = _evaluation()
    config.log = ConfigDict(dict(every_steps=10, tensorboard=True, wandb=False))
    return config


def load(path: str | os.PathLike) -> ConfigDict:
    """The config of a file in `configs/`; also how such a file starts from the one beside it, from any folder.

    Raises:
      ConfigError: there is no such file, or it has no get_config().
    """
    if not os.path.isfile(path):
        raise ConfigError(f"--config {path} does not exist")
    names = runpy.run_path(os.fspath(path))
    if "get_config" not in names:
        raise ConfigError(f"--config {path} has no get_config()")
    return names["get_config"]()


def _data() -> ConfigDict:
    return ConfigDict(
        dict(
            source="",  # folder of a prepared data set (tools.prepare)
            split="train",
            image_size=224,
            context_length=77,
            max_phrases=20,  # K
            max_boxes=10,  # M
            regions="boxes",
            max_region_texts=0,  # R, regions of an image whose texts are encoded alone, drawn anew each epoch; 0 = all
            region_text_every=1,  # in each step one image in so many has its regions' texts encoded, by turns
            region_text_length=16,  # S, tokens of a region's own text
            tokenizer="",  # empty: tokenizer.json beside the data; a path; clip (CLIP's own), clip:PATH; or hf:NAME
            clean_text=True,  # texts cleaned as OpenCLIP cleans them, see harmopower/data/clean.py
            resize_mode="squash",  # the whole image stretched, or its centre square as in CLIP and OpenCLIP (shortest)
            min_crop_area=1.0,  # smallest share of the image that a random crop keeps; 1 = the whole image
            group_size=1,  # consecutive records that the shuffle keeps together; 4 for the embedded scenes
            workers=0,  # worker processes; 0 = threads of this process
            threads=2,
            rows_per_element=32,  # rows that a thread or worker makes at a time; no batch depends on it
            ahead_mib=128,  # MiB of rows made before they are asked for; a host's batch where that is more
            max_bad_fraction=0.01,
        )
    )


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            preset="ViT-B/16",
            pool="cls",
            text_pool="auto",  # eos where pool is cls, mean where pool is mean
            dense="full",
            patch_dropout=0.0,  # share of the patches that each training step leaves out, drawn anew (FLIP); 0 = none
            activation="quick_gelu",
            dtype="float32",
            remat="none",
            attention="xla",
            layer_norm_epsilon=1e-5,
            pixel_mean="0.48145466,0.4578275,0.40821073",  # OpenAI's CLIP, of pixels in 0..1
            pixel_std="0.26862954,0.26130258,0.27577711",
            scan_unroll=1,  # layers per scan iteration; the depth = no loop, faster on CPU
        )
    )


def _objective() -> ConfigDict:
    return ConfigDict(
        {
            "region_pooling": "cover",
            "communication": "ring",  # how shards of the batch meet in the losses: memory for two, or gather all
            "global_contrastive": dict(kind="softmax", weight=1.0),
            "lexeme_region": dict(
                weight=0.1,
                warmup_steps=0,
                temperature="shared",
                duplicates="positives",
                own_text=False,  # encode the own texts of regions that have no span: a second text pass
            ),
            "global_region": dict(
                weight=0.0, warmup_steps=0, mode="text", temperature="shared", duplicates="positives"
            ),
            "powerset": dict(
                weight=0.2,
                warmup_steps=0,
                method="nla",
                temperature=1e-3,
                zeta=0.75,
                margin=0.2,
                phrase_norm="sum",
                score_norm="sum",
                samples=256,
            ),
        }
    )


OBJECTIVES = tuple(name for name, term in _objective().items() if isinstance(term, ConfigDict))


def _evaluation() -> ConfigDict:
    return ConfigDict(
        dict(
            every_steps=1000,  # and at the end; 0 = only there
            suite="scenes",  # names of harmopower/evaluation/suites, comma-separated; empty = no evaluation
            data="",  # root folder of the suites that have data of their own
            candidates=256,  # images and texts of retrieval at most
            batch_size=256,
        )
    )


def _optimizer() -> ConfigDict:
    return ConfigDict(
        dict(
            name="adamw",  # or muon: Muon for the matrices of the blocks, Adam for the rest
            learning_rate=1e-3,
            warmup_steps=100,
            b1=0.9,
            b2=0.98,
            epsilon=1e-8,
            weight_decay=0.2,
            clip_norm=1.0,
        )
    )


def validate(config: ConfigDict, devices: int, processes: int = 1) -> None:
    """Checks everything about a config that needs neither data nor compilation.

    Args:
      config: the run's settings.
      devices: number of devices of all processes.
      processes: number of hosts that read data.

    Raises:
      ConfigError: names the key, both values and the rule that they break.
    """
    _check_choices(config)
    _check_ranges(config)
    _check_batch(config, devices, processes)
    if not any(term.weight for term in config.objective.values() if isinstance(term, ConfigDict)):
        raise ConfigError("every config.objective.*.weight is 0; there is nothing to train on")
    if config.optimizer.warmup_steps >= config.total_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps {config.optimizer.warmup_steps} must be below config.total_steps "
            f"{config.total_steps}"
        )


def _check_choices(config: ConfigDict) -> None:
    for key, choices in CHOICES.items():
        value = _get(config, key)
        if value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"config.{key} {value!r} is none of {', '.join(choices)}{hint}")


def _check_ranges(config: ConfigDict) -> None:
    for key, lowest in LOWEST.items():
        value = _get(config, key)
        if not value >= lowest:  # also catches nan
            raise ConfigError(f"config.{key} {value} must be at least {lowest}")
    for key, limit in BELOW.items():
        if not _get(config, key) < limit:
            raise ConfigError(f"config.{key} {_get(config, key)} must be below {limit}")


def _check_batch(config: ConfigDict, devices: int, processes: int) -> None:
    mesh = config.mesh
    replicas = devices // max(mesh.tensor, 1)  # the batch is cut over the axes data and fsdp
    slices = (config.accumulate, "slices (config.accumulate)")
    turns = (config.data.region_text_every, "images that take turns (config.data.region_text_every)")
    for factors in (
        [(replicas, "devices that share the batch (config.mesh.data x fsdp)"), slices],
        [(processes, "processes"), slices],
        [slices, turns],  # a group may lie on several devices: only slower
    ):
        factors = [(count, name) for count, name in factors if count != 1]
        pieces = math.prod(count for count, _ in factors)
        if pieces and config.batch_size % pieces:
            raise ConfigError(
                f"config.batch_size {config.batch_size} does not divide over "
                f"{' x '.join(f'{count} {name}' for count, name in factors)}; set it to a multiple of {pieces}"
            )


def _get(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote, over today's defaults, so that a key added since keeps its default."""
    stored = {_current(key): _as_flags_give(value) for key, value in flat(json.loads(text)).items()}
    if "objective.lexeme_region.duplicates" in stored:  # GR once had no switch of its own and read this one
        stored.setdefault("objective.global_region.duplicates", stored["objective.lexeme_region.duplicates"])
    config = get_config()
    config.data.clean_text = False  # of runs that are older than the key
    config.update_from_flattened_dict(stored)
    return config


def _current(key: str) -> str:
    for old, new in RENAMED.items():
        if key.startswith(old + "."):
            return new + key.removeprefix(old)
    return key


def _as_flags_give(value):
    return ",".join(map(str, value)) if isinstance(value, list) else value  # settings were lists once


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The settings in which two configs differ, as `config.key: old -> new`."""
    before, after = flat(old.to_dict()), flat(new.to_dict())
    return [
        f"config.{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def flat(tree: dict, prefix: str = "") -> dict:
    """A nested dictionary as one of dotted keys."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a setting that holds several, such as `model.pixel_mean`: a flag cannot set a tuple.

    Raises:
      ValueError: one of them is no number.
    """
    return tuple(float(number) for number in text.split(","))


def as_numbers(values) -> str:
    """The setting that `numbers` reads as these values."""
    return ",".join(str(float(value)) for value in values)
