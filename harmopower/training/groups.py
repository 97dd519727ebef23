"""What of the parameters a run trains, and how fast: `optimizer.groups` and `optimizer.layer_decay`.

    text/*=0,vision/transformer/blocks/*=0.1,logit_scale=0

are shell patterns of parameter names with factors of the learning rate; 0 freezes, of several that match the last one
counts. The blocks of a tower have their numbers in their names: `vision/transformer/blocks/0/qkv/kernel` is of the
first; the name as checkpoints have it, without a number, stands for all blocks. Recipes take the place of patterns:
`lock_image` (LiT, Zhai et al. 2022, arXiv 2111.07991), `lock_text`, and `last_blocks=N`, which freezes of both towers
what comes before their last N blocks.

What is frozen has neither gradient nor optimizer state: the gradient is taken by the trained parameters alone, and of
parameters that all blocks share in one array, by the slice of the trained blocks.
"""

from collections.abc import Iterator
import fnmatch
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from harmopower.errors import ConfigError

RECIPES = {"lock_image": "vision/*", "lock_text": "text/*"}
LAST_BLOCKS = "last_blocks"
TOWERS = ("vision", "text")
_EMBEDDINGS = ("patch_kernel", "class_token", "position", "norm_pre", "tokens")  # of a tower, before its blocks
_EXAMPLE = "write it as text/*=0,vision/transformer/blocks/*=0.1"


class Rule(NamedTuple):
    """One entry of `optimizer.groups`: a factor for the names that fit, or that have more than so many blocks above."""

    text: str
    pattern: str
    factor: float
    last_blocks: int = 0

    def matches(self, place: "Place") -> bool:
        """Whether it speaks of that parameter."""
        if self.last_blocks:
            return place.above > self.last_blocks
        return any(fnmatch.fnmatchcase(name, self.pattern) for name in (place.name, place.stored))


class Place(NamedTuple):
    """A parameter, or one block's share of one.

    Attributes:
      name: with the number of its block.
      stored: as the checkpoints have it.
      above: how far from its tower's output: 0 behind the blocks and outside of the towers, 1 in the last block, one
        more than there are blocks for the embeddings. So count BEiT's and MAE's layer-wise learning rates.
    """

    name: str
    stored: str
    above: int


def parse(text: str) -> list[Rule]:
    """The rules of `optimizer.groups`.

    Raises:
      ConfigError: an entry has no factor, or none of at least 0.
    """
    return [_parse(entry.strip()) for entry in text.split(",")] if text.strip() else []


def _parse(entry: str) -> Rule:
    if entry in RECIPES:
        return Rule(entry, RECIPES[entry], 0.0)
    pattern, _, number = entry.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = -1.0
    right = pattern != "" and 0 <= factor <= 1e6
    if pattern == LAST_BLOCKS and right and factor >= 1 and factor == int(factor):
        return Rule(entry, "", 0.0, int(factor))
    if not right or pattern == LAST_BLOCKS:
        raise ConfigError(
            f"config.optimizer.groups has {entry!r}, which is no PATTERN=FACTOR with a factor from 0 to 1e6, no "
            f"{', '.join(RECIPES)}, no {LAST_BLOCKS}=N with a whole N above 0; {_EXAMPLE}"
        )
    return Rule(entry, pattern, factor)


def factors(settings, params) -> dict[tuple[str, ...], np.ndarray]:
    """The learning rate's factor of every parameter, one a block where the blocks share an array.

    Args:
      settings: `config.optimizer`.
      params: nested, as the model has them; only names and shapes are read.

    Returns:
      path of the parameter -> float64 `[layers]`, or `[1]` outside of the blocks.

    Raises:
      ConfigError: a rule fits no parameter, or nothing is left to train.
    """
    places = _places(params)
    everywhere = [place for found in places.values() for place in found]
    rules = parse(settings.groups)
    for rule in rules:
        if not any(map(rule.matches, everywhere)):
            raise ConfigError(
                f"config.optimizer.groups: {rule.text!r} matches no parameter; there are {_listed(everywhere)}"
            )
    found = {key: np.array([_factor(place, rules, settings) for place in each]) for key, each in places.items()}
    if not any(factor.any() for factor in found.values()):
        raise ConfigError(f"config.optimizer.groups {settings.groups!r} freezes every parameter; nothing is trained")
    return found


def _factor(place: Place, rules: list[Rule], settings) -> float:
    matching = [rule.factor for rule in rules if rule.matches(place)]
    return (matching[-1] if matching else 1.0) * settings.layer_decay**place.above


def _places(params) -> dict[tuple[str, ...], list[Place]]:
    flat = {key: jax.tree.leaves(leaf)[0].shape for key, leaf in by_path(params).items()}
    depths = {key[0]: shape[0] for key, shape in flat.items() if "blocks" in key}
    return {key: list(_places_of(key, shape, depths)) for key, shape in flat.items()}


def _places_of(key: tuple[str, ...], shape: tuple[int, ...], depths: dict[str, int]) -> Iterator[Place]:
    stored = "/".join(key)
    if "blocks" not in key:
        yield Place(stored, stored, depths[key[0]] + 1 if key[1:2] and key[1] in _EMBEDDINGS else 0)
        return
    split = key.index("blocks") + 1
    for block in range(shape[0]):
        yield Place("/".join((*key[:split], str(block), *key[split:])), stored, shape[0] - block)


def _listed(places: list[Place]) -> str:
    """The names as far as the block's number, each once."""
    names = [place.name.split("/") for place in places]
    return ", ".join(dict.fromkeys("/".join(name[:4] if "blocks" in name else name[:2]) for name in names))


def by_path(tree) -> dict[tuple[str, ...], Any]:
    """The leaves by their path. Flax's own function, whose type takes a leaf for a tree."""
    return traverse_util.flatten_dict(tree)


def select(settings, params):
    """The part of the parameters that is trained; of shared arrays the trained blocks. All, where nothing is frozen."""
    if not settings.groups:
        return params
    flat, found = by_path(params), {}
    for key, trained in _trained(settings, params).items():
        found[key] = jax.tree.map(lambda leaf, where=trained: leaf[where], flat[key])
    return traverse_util.unflatten_dict(found)


def merge(settings, params, selected):
    """The parameters with those in place that `select` gives, changed or not."""
    if not settings.groups:
        return selected
    flat, new = by_path(params), by_path(selected)
    for key, trained in _trained(settings, params).items():
        whole = new[key].shape == flat[key].shape
        flat[key] = new[key] if whole else flat[key].at[trained].set(new[key])
    return traverse_util.unflatten_dict(flat)


def scale(settings, updates, params):
    """The updates of the trained parameters, each times its factor."""
    flat, found = by_path(updates), {}
    for key, factor in factors(settings, params).items():
        if key in flat:
            factor = factor[factor > 0] if len(factor) > 1 else factor
            shape = (len(factor), *[1] * (flat[key].ndim - 1)) if len(factor) > 1 else ()
            found[key] = flat[key] * factor.astype(np.float32).reshape(shape)
    return traverse_util.unflatten_dict(found)


def _trained(settings, params) -> dict[tuple[str, ...], Any]:
    """Where each parameter that is trained at all is trained: an index of its blocks, or `...` for the whole of it."""
    found = {}
    for key, factor in factors(settings, params).items():
        blocks = np.flatnonzero(factor)
        if len(blocks) == len(factor):
            found[key] = ...
        elif len(blocks):
            together = blocks[-1] - blocks[0] + 1 == len(blocks)
            found[key] = slice(int(blocks[0]), int(blocks[-1]) + 1) if together else blocks
    return found


def frozen_blocks(settings, params) -> tuple[int, int]:
    """How many blocks of each tower, from the first on, are frozen, while later ones are trained.

    The model computes them apart, so that their weights' gradient is never computed (models/layers.py).
    """
    if not settings.groups:
        return 0, 0
    found = {tower: [] for tower in TOWERS}
    for key, factor in factors(settings, params).items():
        if "blocks" in key:
            found[key[0]].append(factor)
    return _leading_zeros(found["vision"]), _leading_zeros(found["text"])


def _leading_zeros(of_blocks: list[np.ndarray]) -> int:
    trained = np.any(of_blocks, axis=0)
    return int(np.argmax(trained)) if trained.any() else 0  # where all are frozen there is no gradient to keep away


def depth(settings, params, tower: str) -> int:
    """How far from its output a tower's gradient reaches: the largest `above` of what is trained; -1 where nothing."""
    found, places = factors(settings, params), _places(params)
    return max(
        (place.above for key in found if key[0] == tower for place, value in zip(places[key], found[key]) if value),
        default=-1,
    )
