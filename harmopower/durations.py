"""How long a run, its warm-up and its cool-down are: in steps, or in examples or epochs that become steps.

Of `total_steps`, `total_examples` and `total_epochs` one is above 0, of `optimizer.warmup_*` and `optimizer.cooldown_*`
at most one: what is set twice is refused, nothing is silently the stronger.
"""

from ml_collections import ConfigDict

from harmopower.errors import ConfigError
from harmopower.settings import STEPS

NAMES = ("total", "optimizer.warmup", "optimizer.cooldown")
UNITS = ("steps", "examples", "epochs")


def _said(config: ConfigDict, name: str) -> dict:
    """Key -> value of what is set of one duration."""
    group, _, short = name.rpartition(".")
    settings = config[group] if group else config
    values = {f"{name}_{unit}": settings[f"{short}_{unit}"] for unit in UNITS}
    return {key: value for key, value in values.items() if value}


def check(config: ConfigDict) -> None:
    """Checks what needs no data: each duration is said once, and steps fit each other.

    Raises:
      ConfigError: names the keys and both values.
    """
    for name in NAMES:
        said = _said(config, name)
        if len(said) > 1:
            both = " and ".join(f"config.{key} {value}" for key, value in said.items())
            raise ConfigError(f"{both} say the same thing; set all but one of them to 0")
    if not _said(config, "total"):
        raise ConfigError("config.total_steps, total_examples and total_epochs are all 0; set one of them")
    if config.optimizer.schedule == "cosine" and (said := _said(config, "optimizer.cooldown")):
        (key, value), *_ = said.items()
        raise ConfigError(
            f"config.optimizer.schedule cosine falls to 0 by itself, but config.{key} is {value}; set it to 0, or the "
            "schedule to constant or rsqrt"
        )
    if config.total_steps:
        _check_steps(config)


def _check_steps(config: ConfigDict) -> None:
    total, warmup, cooldown = config.total_steps, config.optimizer.warmup_steps, config.optimizer.cooldown_steps
    if warmup >= total:
        raise ConfigError(f"config.optimizer.warmup_steps {warmup} must be below config.total_steps {total}")
    if warmup + cooldown > total:
        raise ConfigError(
            f"config.optimizer.warmup_steps {warmup} and config.optimizer.cooldown_steps {cooldown} together are more "
            f"than config.total_steps {total}"
        )


def in_steps(config: ConfigDict, examples: int) -> list[str]:
    """Puts what the config says in examples or epochs into steps, rounded down; changes `config`.

    Args:
      examples: of an epoch, of all hosts: of every data set once.

    Returns:
      a line for each, to be printed.

    Raises:
      ConfigError: a duration is no step long, or warm-up and cool-down are longer than the run.
    """
    lines = []
    for name in NAMES:
        for key, said in _said(config, name).items():
            if not key.endswith("_steps"):
                lines.append(_put(config, name, key, said, examples))
    _check_steps(config)
    return lines


def _put(config: ConfigDict, name: str, key: str, said: float, examples: int) -> str:
    steps = int(said * (examples if key.endswith("epochs") else 1) / config.batch_size)
    if not 0 < steps <= STEPS:
        raise ConfigError(
            f"config.{key} {said:,} of {examples:,} examples an epoch is {steps:,} steps of config.batch_size "
            f"{config.batch_size}; it must be 1 to {STEPS:,}"
        )
    config.update_from_flattened_dict({f"{name}_steps": steps, key: type(said)(0)})
    return f"config.{key} {said:,} of {examples:,} examples an epoch: {steps:,} steps"
