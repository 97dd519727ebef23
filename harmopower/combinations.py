"""Settings that are each legal and do not go together; `config.validate` asks."""

import math

from ml_collections import ConfigDict

from harmopower.errors import ConfigError

MAX_EXACT_REGIONS = 12  # of the method `exact`, which goes through 2 ** M subsets (METHOD section 6)


def check(config: ConfigDict) -> None:
    """Raises ConfigError where two settings exclude each other; names both and the keys to change."""
    _check_together(config)
    _check_mining(config.objective.powerset)
    _check_regions(config)
    _check_teacher(config)


def _check_together(config: ConfigDict) -> None:
    powerset, data, model = config.objective.powerset, config.data, config.model
    if powerset.weight and powerset.method == "exact" and data.max_boxes > MAX_EXACT_REGIONS:
        raise ConfigError(
            f"config.data.max_boxes {data.max_boxes} is above {MAX_EXACT_REGIONS}, up to which all subsets can be "
            "gone through; lower it, or set config.objective.powerset.method to nla or sampled"
        )
    if model.attention == "cudnn" and model.dtype != "bfloat16":
        raise ConfigError(
            f"config.model.attention cudnn computes in bfloat16, but config.model.dtype is {model.dtype}; change "
            "one of them"
        )


def _check_teacher(config: ConfigDict) -> None:
    term, key = config.objective.global_region, "config.objective.global_region.teacher"
    if not term.weight or term.mode != "crop":
        return
    if term.teacher == "ema" and not config.optimizer.ema:
        raise ConfigError(
            f"{key} is ema, the moving average of the parameters, but config.optimizer.ema {config.optimizer.ema} "
            f"keeps none; set config.optimizer.ema=0.999, or {key}=self"
        )
    if term.teacher == "start" and not config.init:
        raise ConfigError(
            f"{key} is start, the model that the run starts from, but config.init is empty, and random weights teach "
            f"nothing; set config.init to a trained model, or {key}=self"
        )


def _check_mining(powerset: ConfigDict) -> None:
    if powerset.loss == "softmax" and powerset.negatives != "top_k":
        raise ConfigError(
            "config.objective.powerset.loss softmax is over several negatives, but "
            f"config.objective.powerset.negatives {powerset.negatives} keeps one; set it to top_k, or the loss to "
            "triplet"
        )
    if (powerset.negatives == "hardest_of") != (powerset.negative_share_steps > 0):
        raise ConfigError(
            f"config.objective.powerset.negative_share_steps {powerset.negative_share_steps} and "
            f"config.objective.powerset.negatives {powerset.negatives} do not go together: hardest_of, and nothing "
            "else, takes a share of the batch that grows over so many steps"
        )


def _check_regions(config: ConfigDict) -> None:
    for prompt in config.data.label_prompt.split("|"):  # data/region_texts.py
        if "{}" not in prompt:
            raise ConfigError(f"config.data.label_prompt {prompt!r} has no {{}} where the label goes")
    terms = config.objective
    needing = ["lexeme_region"] * (terms.lexeme_region.weight > 0)
    needing += ["global_region"] * (terms.global_region.weight > 0 and terms.global_region.mode == "text")
    if config.data.regions == "random" and needing:
        key = f"config.objective.{needing[0]}"
        raise ConfigError(
            f"{key}.weight {terms[needing[0]].weight} needs regions with texts, but config.data.regions 'random' draws "
            f"boxes that have none; set {key}.weight=0, or config.data.regions to boxes or mixed"
        )


def check_batch(config: ConfigDict, devices: int, processes: int) -> None:
    """Raises ConfigError where the batch does not divide over devices, processes, slices and turns."""
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
