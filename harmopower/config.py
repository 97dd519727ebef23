"""The configuration of a run: every key with its default, what it may be, what it means, and whether it may change.

A file in `configs/` starts from `get_config()` and states the difference. Command-line overrides (`--config.a.b=1`) are
applied by ml_collections on top. A key that is not in the table cannot be set, by mistake or otherwise.
"""

import difflib
import json
import os
import runpy

from ml_collections import ConfigDict

from harmopower import combinations, durations
from harmopower.errors import ConfigError
from harmopower.settings import FREE, HISTORY, STEPS, Choice, Numbers, Real, Setting, Switch, Text, Whole, flat, refusal

WEIGHT = Real(0, 1e6)
MANY_EXAMPLES = 2**50
# What a run with checkpoints is made of is fixed, the default. Schedules, the optimizer's settings, evaluation, logging
# may change, and the HISTORY tells when. FREE is where and how fast the same numbers are computed; data and tokenizer
# are known by their contents, not by their path.
SETTINGS = {
    "seed": Setting(0, Whole(0, 2**32 - 1), "where every random number of the run starts"),
    "total_steps": Setting(1000, Whole(0, STEPS), "updates; 0 where the next two say how long", HISTORY),
    "total_examples": Setting(0, Whole(0, MANY_EXAMPLES), "in place of total_steps: examples seen", HISTORY),
    "total_epochs": Setting(0.0, Real(0, 1e6), "in place of total_steps: passes over all examples", HISTORY),
    "batch_size": Setting(128, Whole(1, 2**24), "pairs a step, over all devices and all accumulation slices"),
    "accumulate": Setting(1, Whole(1), "slices of the global batch, with exact gradients", FREE),
    "init": Setting("", Text(), "weights to start from, a path; empty = random"),
    # --- data
    "data.source": Setting("", Text(), "folder of a prepared data set (tools.prepare)", FREE),
    "data.sources": Setting("", Text(), "several data sets in place of source, weighted (data/sources.py)"),
    "data.annotations": Setting(
        "", Text(), "overlays of tools.annotate that are laid over the records, comma-separated, the last on top"
    ),
    "data.split": Setting("train", Text(empty=False), "its split that is trained on"),
    "data.image_size": Setting(224, Whole(1, 8192), "height in pixels, a multiple of the patch size"),
    "data.image_width": Setting(0, Whole(0, 8192), "width in pixels, a multiple of the patch size; 0 = the height"),
    "data.context_length": Setting(77, Whole(3, 65536), "T, tokens of a caption with start and end"),
    "data.max_phrases": Setting(20, Whole(1, 1024), "K, phrases of a caption"),
    "data.max_boxes": Setting(10, Whole(1, 1024), "M, regions of an image"),
    "data.regions": Setting("boxes", Choice(("boxes", "random", "mixed")), "stored ones, drawn ones, or both"),
    "data.max_region_texts": Setting(
        0, Whole(0, 1024), "R, regions of an image whose texts are encoded alone, drawn anew each epoch; 0 = all"
    ),
    "data.region_text_every": Setting(
        1, Whole(1), "in each step one image in so many has its regions' texts encoded, by turns"
    ),
    "data.region_text_length": Setting(16, Whole(3, 65536), "S, tokens of a region's text where it is encoded alone"),
    "data.max_region_crops": Setting(
        0, Whole(0, 1024), "C, regions of an image whose crops are encoded, drawn anew each epoch; 0 = all"
    ),
    "data.label_prompt": Setting(
        "{}", Text(empty=False), "text of a region that has only a label, {}; of several, separated by |, one is drawn"
    ),
    "data.region_text_choice": Setting(
        "first", Choice(("first", "drawn")), "a region's span, else own text, else label; or one drawn of all it has"
    ),
    "data.tokenizer": Setting(
        "", Text(), "empty: tokenizer.json beside the data; a path; clip (CLIP's own), clip:PATH; or hf:NAME", FREE
    ),
    "data.clean_text": Setting(True, Switch(), "texts cleaned as OpenCLIP cleans them (data/clean.py)"),
    "data.resize_mode": Setting(
        "squash",
        Choice(("squash", "shortest", "letterbox")),
        "the whole image stretched; its centre square (CLIP, OpenCLIP); the longest side fitted and the rest padded",
    ),
    "data.resize_filter": Setting(
        "bicubic",
        Choice(("bicubic", "hamming", "box")),
        "of training's pictures; all antialiased, hamming and box faster (docs/benchmarks.md); evaluation: bicubic",
    ),
    "data.min_crop_area": Setting(
        1.0, Real(0.01, 1), "smallest share of the image that a random crop keeps; 1 = the whole image"
    ),
    "data.crop_aspect": Setting(
        "relative", Choice(("relative", "absolute")), "a random crop is 3/4 to 4/3 of the image's aspect, or of 1"
    ),
    "data.group_size": Setting(
        1, Whole(1), "consecutive records that the shuffle keeps together; 4 for the embedded scenes"
    ),
    "data.shuffle": Setting(
        "global", Choice(("global", "window")), "all records, or blocks and then windows of them, as disks like it"
    ),
    "data.shuffle_block": Setting(1024, Whole(1), "consecutive records of a block"),
    "data.shuffle_blocks": Setting(16, Whole(1), "blocks of a window"),
    "data.open_files": Setting(128, Whole(1, 65536), "record files that a process has open at most", FREE),
    "data.workers": Setting(0, Whole(0, 1024), "worker processes; 0 = threads of this process", FREE),
    "data.threads": Setting(2, Whole(1, 1024), "threads of each process that make batches", FREE),
    "data.rows_per_element": Setting(32, Whole(1), "rows that a thread or worker makes at a time", FREE),
    "data.ahead_mib": Setting(
        128, Whole(1), "MiB of rows made before they are asked for; a host's batch where that is more", FREE
    ),
    "data.max_bad_fraction": Setting(0.01, Real(0, 1), "above this share of unusable records the run stops", HISTORY),
    # --- model
    "model.preset": Setting("ViT-B/16", Text(empty=False), "size, a name of models/presets.py"),
    "model.pool": Setting("cls", Choice(("cls", "mean")), "the image's vector: class token or mean of the patches"),
    "model.text_pool": Setting(
        "auto", Choice(("auto", "eos", "mean")), "the text's vector; auto: eos where pool is cls, mean where it is mean"
    ),
    "model.dense": Setting("full", Choice(("full", "value")), "how patch tokens are read from the last block"),
    "model.patch_dropout": Setting(
        0.0, Real(0, 0.95), "share of the patches that each training step leaves out, drawn anew (FLIP); 0 = none"
    ),
    "model.activation": Setting("quick_gelu", Choice(("gelu", "gelu_tanh", "quick_gelu")), "of the blocks"),
    "model.dtype": Setting("float32", Choice(("float32", "bfloat16")), "what the towers compute in"),
    "model.remat": Setting("none", Choice(("none", "dots", "full")), "what the backward pass computes again", FREE),
    "model.attention": Setting("xla", Choice(("xla", "cudnn")), "cudnn: flash attention of NVIDIA GPUs", FREE),
    "model.position_init": Setting(
        "sincos", Choice(("sincos", "noise")), "what image positions are learnt from; CLIP and OpenCLIP: noise"
    ),
    "model.layer_norm_epsilon": Setting(1e-5, Real(1e-12, 1), "added to the variance"),
    "model.pixel_mean": Setting(
        "0.48145466,0.4578275,0.40821073", Numbers(3, Real(0, 1)), "of red, green and blue in 0..1: OpenAI's CLIP"
    ),
    "model.pixel_std": Setting(
        "0.26862954,0.26130258,0.27577711", Numbers(3, Real(0.001, 10)), "the same; pixels are divided by it"
    ),
    "model.scan_unroll": Setting(
        1, Whole(1, 1024), "layers a scan iteration; the depth = no loop, faster on CPU", FREE
    ),
    # --- objective
    "objective.region_pooling": Setting(
        "cover", Choice(("cover", "overlap", "roi_align")), "the weights of a region over the patches (METHOD 2)"
    ),
    "objective.communication": Setting(
        "auto",
        Choice(("auto", "ring", "gather")),
        "how shards of the batch meet in the losses: memory for two, or all at once; auto: at once up to 256 MiB",
        FREE,
    ),
    "objective.global_contrastive.kind": Setting("softmax", Choice(("softmax", "sigmoid")), "CLIP or SigLIP"),
    "objective.global_contrastive.weight": Setting(1.0, WEIGHT, "image against caption; 0 = off"),
    "objective.lexeme_region.weight": Setting(0.1, WEIGHT, "LRC, regions against the words that name them; 0 = off"),
    "objective.lexeme_region.warmup_steps": Setting(0, Whole(0, STEPS), "over which the weight grows from 0", HISTORY),
    "objective.lexeme_region.temperature": Setting(
        "shared", Choice(("shared", "own")), "logit_scale, or a scale of its own"
    ),
    "objective.lexeme_region.duplicates": Setting(
        "positives", Choice(("positives", "ignore")), "what identical texts of a batch are to each other"
    ),
    "objective.global_region.weight": Setting(0.0, WEIGHT, "GR, regions against pooled vectors; 0 = off"),
    "objective.global_region.warmup_steps": Setting(0, Whole(0, STEPS), "over which the weight grows from 0", HISTORY),
    "objective.global_region.mode": Setting("text", Choice(("text", "crop")), "pooled vector of the text or the crop"),
    "objective.global_region.teacher": Setting(
        "self",
        Choice(("self", "ema", "start")),
        "who encodes the crops, without gradient: the model, its average (optimizer.ema), or the model of init",
    ),
    "objective.global_region.crop_chunk": Setting(
        1, Whole(0, 1024), "crops of an image that are encoded at once, memory against speed; 0 = all", FREE
    ),
    "objective.global_region.crop_size": Setting(0, Whole(0, 8192), "side of the crops in pixels; 0 = the image's"),
    "objective.global_region.temperature": Setting(
        "shared", Choice(("shared", "own")), "logit_scale, or a scale of its own"
    ),
    "objective.global_region.duplicates": Setting(
        "positives", Choice(("positives", "ignore")), "what identical texts of a batch are to each other"
    ),
    "objective.powerset.weight": Setting(0.2, WEIGHT, "subsets of regions against phrases; 0 = off"),
    "objective.powerset.warmup_steps": Setting(0, Whole(0, STEPS), "over which the weight grows from 0", HISTORY),
    "objective.powerset.method": Setting(
        "nla",
        Choice(("exact", "nla", "sampled", "single")),
        "all subsets (M up to 12), aggregators of linear cost, Monte Carlo, or single regions in place of subsets",
    ),
    "objective.powerset.direction": Setting(
        "both", Choice(("both", "tree_to_region", "region_to_tree")), "T2R and R2T (nla: T1 and T2), or one alone"
    ),
    "objective.powerset.words": Setting("phrases", Choice(("phrases", "tokens")), "tokens: each by itself, no sums"),
    "objective.powerset.temperature": Setting(1e-3, Real(1e-9, 1e3), "tau of the aggregators"),
    "objective.powerset.zeta": Setting(0.75, Real(0, 1), "weight of log cosh in the aggregator T2"),
    "objective.powerset.margin": Setting(0.2, Real(0, 1e3), "delta of the triplet loss"),
    "objective.powerset.phrase_norm": Setting("sum", Choice(("sum", "unit")), "a phrase is the sum of its leaves, or"),
    "objective.powerset.score_norm": Setting("sum", Choice(("sum", "mean")), "mean: over the number of valid regions"),
    "objective.powerset.samples": Setting(256, Whole(1), "subsets of `sampled`"),
    "objective.powerset.negatives": Setting(
        "hardest",
        Choice(("hardest", "semi_hard", "top_k", "hardest_of")),
        "a row learns from: the hardest, the hardest below its own pair, the hardest so many, or of a growing share",
    ),
    "objective.powerset.top_k": Setting(8, Whole(1, 32), "how many of `top_k`"),
    "objective.powerset.negative_share_steps": Setting(
        0, Whole(0, STEPS), "of `hardest_of`, which needs some: over which the share grows to 1", HISTORY
    ),
    "objective.powerset.loss": Setting(
        "triplet", Choice(("triplet", "softmax")), "softmax: cross-entropy over top_k at a learnt temperature"
    ),
    "objective.global_triplet.weight": Setting(0.0, WEIGHT, "the powerset's loss without a powerset; 0 = off"),
    "objective.global_triplet.warmup_steps": Setting(0, Whole(0, STEPS), "over which the weight grows from 0", HISTORY),
    "objective.global_triplet.margin": Setting(0.2, Real(0, 1e3), "delta of the triplet loss"),
    # --- optimizer
    "optimizer.name": Setting(
        "adamw", Choice(("adamw", "muon")), "muon: Muon for the matrices of the blocks, Adam for the rest"
    ),
    "optimizer.learning_rate": Setting(1e-3, Real(0, 10), "at the end of the warm-up", HISTORY),
    "optimizer.schedule": Setting(
        "cosine", Choice(("cosine", "constant", "rsqrt")), "after the warm-up; cosine falls to 0", HISTORY
    ),
    "optimizer.timescale": Setting(
        10_000, Whole(1, STEPS), "steps of rsqrt: sqrt(timescale / (timescale + s))", HISTORY
    ),
    "optimizer.warmup_steps": Setting(100, Whole(0, STEPS), "over which it grows from 0; below total_steps", HISTORY),
    "optimizer.warmup_examples": Setting(0, Whole(0, MANY_EXAMPLES), "in place of warmup_steps, which is 0", HISTORY),
    "optimizer.warmup_epochs": Setting(0.0, Real(0, 1e6), "in place of warmup_steps, which is 0", HISTORY),
    "optimizer.cooldown_steps": Setting(
        0, Whole(0, STEPS), "at the end, over which constant and rsqrt fall to 0", HISTORY
    ),
    "optimizer.cooldown_examples": Setting(0, Whole(0, MANY_EXAMPLES), "in place of cooldown_steps", HISTORY),
    "optimizer.cooldown_epochs": Setting(0.0, Real(0, 1e6), "in place of cooldown_steps", HISTORY),
    "optimizer.b1": Setting(0.9, Real(0, 0.999999), "decay of the mean of the gradients", HISTORY),
    "optimizer.b2": Setting(0.98, Real(0, 0.999999), "decay of the mean of their squares", HISTORY),
    "optimizer.epsilon": Setting(1e-8, Real(1e-30, 1), "added to the root of the squares", HISTORY),
    "optimizer.weight_decay": Setting(
        0.2, Real(0, 100), "of weights that are no gains, biases or temperatures", HISTORY
    ),
    "optimizer.groups": Setting(
        "", Text(), "what is trained and how fast: patterns with factors, text/*=0; or recipes (training/groups.py)"
    ),
    "optimizer.layer_decay": Setting(
        1.0, Real(0.01, 1), "factor of the learning rate for each block between a parameter and the output", HISTORY
    ),
    "optimizer.ema": Setting(
        0.0, Real(0, 0.9999999), "decay a step of a moving average of the parameters, kept beside them; 0 = none"
    ),
    "optimizer.clip_norm": Setting(1.0, Real(1e-6, 1e9, also=(0,)), "longest gradient; 0 = not clipped", HISTORY),
    "optimizer.max_bad_updates": Setting(
        10,
        Whole(1),
        "those of a loss or gradient that is not finite are skipped; so many in a row stop the run",
        HISTORY,
    ),
    # --- devices
    "mesh.platform": Setting(
        "",
        Choice(("", "cpu", "gpu", "tpu")),
        "the kind of device that is meant; on another the run stops at once",
        FREE,
    ),
    "mesh.data": Setting(-1, Whole(1, also=(-1,)), "devices that share the batch alone; -1: those that are left", FREE),
    "mesh.fsdp": Setting(1, Whole(1, also=(-1,)), "devices that share the batch and the parameters", FREE),
    "mesh.tensor": Setting(1, Whole(1), "devices that share each matrix product", FREE),
    # --- what is kept, measured and shown
    "checkpoint.every_steps": Setting(1000, Whole(0, STEPS), "0 = not by steps", HISTORY),
    "checkpoint.every_minutes": Setting(30.0, Real(0.1, 1e9), "and by time", HISTORY),
    "checkpoint.keep": Setting(2, Whole(1), "the newest so many stay", HISTORY),
    "checkpoint.best": Setting("", Text(), "an evaluation metric, higher is better, whose best stays too", HISTORY),
    "evaluation.every_steps": Setting(1000, Whole(0, STEPS), "and at the end; 0 = only then", HISTORY),
    "evaluation.suite": Setting(
        "scenes", Text(), "names of harmopower/evaluation/suites, comma-separated; empty = no evaluation", HISTORY
    ),
    "evaluation.data": Setting("", Text(), "root folder of the suites that have data of their own", HISTORY),
    "evaluation.candidates": Setting(256, Whole(1), "images of retrieval in scenes and records at most", HISTORY),
    "evaluation.batch_size": Setting(256, Whole(1, 2**24), "examples encoded at once", HISTORY),
    "evaluation.light": Setting(
        "",
        Text(),
        "a quick look during training: tasks such as zero_shot/imagenet1k,retrieval/mscoco_captions,records/test, each "
        "on its first 5,000 examples (retrieval 1,000); empty = none",
        HISTORY,
    ),
    "evaluation.light_every_steps": Setting(200, Whole(1, STEPS), "and so often", HISTORY),
    "evaluation.box_features": Setting(
        "roi_align_value,roi_align_full,mask_value",
        Text(empty=False),
        "region features of the suites boxes and grounding, comma-separated: cover_, overlap_, roi_align_ or mask_, "
        "each followed by full or value; crop",
        HISTORY,
    ),
    "evaluation.padded_size": Setting(
        0,
        Whole(0, 8192),
        "side of the images of the protocol clipself; 0 = the published 1024 (patches of 14: 896)",
        HISTORY,
    ),
    "log.every_steps": Setting(10, Whole(1, STEPS), "a row of metrics each so many steps", HISTORY),
    "log.dead_after": Setting(
        50, Whole(0, STEPS), "steps in a row without a pair for an objective that stop the run; 0 = never", HISTORY
    ),
    "log.tensorboard": Setting(True, Switch(), "write TensorBoard events too", HISTORY),
    "log.wandb": Setting(False, Switch(), "send the metrics to Weights & Biases too (extra `wandb`)", HISTORY),
}
RENAMED = {"objective.global": "objective.global_contrastive"}  # what workdirs of older versions hold
GONE = ("objective.lexeme_region.own_text",)  # and what they hold that is a setting no more
OBJECTIVES = tuple(key.split(".")[1] for key in SETTINGS if key.startswith("objective.") and key.endswith(".weight"))


def get_config() -> ConfigDict:
    """Returns the defaults; config files change what they need."""
    tree: dict = {}
    for key, setting in SETTINGS.items():
        *groups, name = key.split(".")
        group = tree
        for inner in groups:
            group = group.setdefault(inner, {})
        group[name] = setting.default
    return ConfigDict(tree)


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


def described() -> str:
    """Every setting with its default, what it may be and what it means, for a reader."""
    return "\n".join(
        f"--config.{key}={setting.default}\n    {setting.meaning}\n    {setting.legal}"
        for key, setting in SETTINGS.items()
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
    check_values(config)
    combinations.check_batch(config, devices, processes)
    if not any(config.objective[name].weight for name in OBJECTIVES):
        raise ConfigError("every config.objective.*.weight is 0; there is nothing to train on")
    durations.check(config)
    combinations.check(config)


def check_values(config: ConfigDict) -> None:
    """Raises ConfigError where a key is unknown or missing, or its value none of the table."""
    values = flat(config.to_dict())
    for key in values:
        check_key(key)
    for key, setting in SETTINGS.items():
        if key not in values:
            raise ConfigError(f"config.{key} is missing; start from harmopower.config.get_config()")
        if not setting.legal.accepts(values[key]):
            raise ConfigError(refusal(key, values[key], setting.legal))


def check_key(key: str) -> None:
    """Raises ConfigError where no setting is called so; names the one that may have been meant."""
    if key in SETTINGS:
        return
    inside = [name for name in SETTINGS if name.startswith(f"{key}.")]
    if inside:
        raise ConfigError(f"config.{key} is a group of settings; set one of them, such as config.{inside[0]}")
    same_name = [name for name in SETTINGS if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = same_name or difflib.get_close_matches(key, SETTINGS, n=1)
    hint = f"; did you mean config.{close[0]}?" if close else ""
    raise ConfigError(f"config.{key} is no setting{hint} (--help_config lists them)")


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote, over today's defaults, so that a key added since keeps its default.

    Raises:
      ConfigError: it has a key that is not known here: a newer version wrote it.
    """
    stored = {_current(key): _as_flags_give(value) for key, value in flat(json.loads(text)).items()}
    stored = {key: value for key, value in stored.items() if key not in GONE}
    if "objective.lexeme_region.duplicates" in stored:  # GR once had no switch of its own and read this one
        stored.setdefault("objective.global_region.duplicates", stored["objective.lexeme_region.duplicates"])
    for key in stored:
        check_key(key)
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
