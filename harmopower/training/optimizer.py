"""AdamW as CLIP uses it, or Muon: schedules, clipping, and no decay on gains, biases and temperatures."""

import jax
import optax
from optax import contrib

from harmopower.training import groups

# Radford et al. 2021, section 2.5: weights are decayed that are not gains or biases. Nor are the losses' scalars,
# which alone lie beside the towers.
UNDECAYED = ("bias", "scale", "class_token")


def make_schedule(config) -> optax.Schedule:
    """Linear warm-up from 0, then what `optimizer.schedule` says, which `optimizer.cooldown_steps` end at 0.

    `cosine` falls to 0 at `total_steps` by itself. `rsqrt` falls as `sqrt(timescale / (timescale + s))`, s steps after
    the warm-up (Zhai et al. 2022, arXiv 2106.04560, section 3.5); it and `constant` do not know their end, so a run may
    be prolonged, or cooled down from any of its checkpoints. The cool-down is linear.
    """
    settings = config.optimizer
    rate, warmup, end = settings.learning_rate, settings.warmup_steps, config.total_steps
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, end)
    plain = optax.constant_schedule(rate)
    if settings.schedule == "rsqrt":
        plain = lambda step: rate * (settings.timescale / (settings.timescale + step)) ** 0.5
    if warmup:
        plain = optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), plain], [warmup])
    if not settings.cooldown_steps:
        return plain
    left = optax.linear_schedule(0.0, 1.0, settings.cooldown_steps)
    return lambda step: plain(step) * left(end - step)


def make_optimizer(config) -> optax.GradientTransformation:
    """The optimizer of a run's config; `clip_norm` 0 switches clipping off."""
    settings = config.optimizer
    update = (_muon if settings.name == "muon" else _adamw)(settings, make_schedule(config))
    if settings.clip_norm:
        update = optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)
    return _in_groups(update, settings) if settings.groups or settings.layer_decay < 1 else update


def _in_groups(inner: optax.GradientTransformation, settings) -> optax.GradientTransformation:
    """Updates the trained parameters alone, each with its factor of the learning rate (training/groups.py).

    Given and asked for the parameters of the whole model; gradients and updates are those of the trained ones. The
    factor stands outside of the optimizer, whose state has one layout whatever the factors are.
    """

    def update(updates, state, params=None):
        updates, state = inner.update(updates, state, groups.select(settings, params))
        return groups.scale(settings, updates, params), state

    return optax.GradientTransformation(lambda params: inner.init(groups.select(settings, params)), update)


def _adamw(settings, schedule):
    return optax.adamw(
        schedule, settings.b1, settings.b2, settings.epsilon, weight_decay=settings.weight_decay, mask=decay_mask
    )


def _muon(settings, schedule):
    """Muon (Jordan 2024) for the matrices of the blocks, which alone are decayed; Adam for all other parameters.

    Updates are scaled to the size that AdamW's have (Liu et al. 2025, section 2.2), so that the learning rates of the
    two are of one order.
    """
    return contrib.muon(
        schedule,
        weight_decay=settings.weight_decay,
        adam_b1=settings.b1,
        adam_b2=settings.b2,
        eps=settings.epsilon,
        muon_weight_dimension_numbers=_block_matrices,
        consistent_rms=0.2,
    )


def _block_matrices(params):
    """Which axes of each block's kernel are inputs and outputs of one matrix; None for every other parameter.

    Query, key and value are three matrices; all layers are stacked on axis 0.
    """
    matrices = {
        "qkv": contrib.MuonDimensionNumbers((1,), (3, 4)),  # [layers, embed, 3, heads, head_dim]
        "out": contrib.MuonDimensionNumbers((1, 2), (3,)),  # [layers, heads, head_dim, embed]
        "mlp_in": contrib.MuonDimensionNumbers((1,), (2,)),
        "mlp_out": contrib.MuonDimensionNumbers((1,), (2,)),
    }

    def axes(path, _):
        *_, module, name = [""] + _keys(path)
        return matrices[module] if name == "kernel" else None

    return jax.tree_util.tree_map_with_path(axes, params)


def decay_mask(params):
    """True for the parameters that weight decay touches."""
    in_tower = lambda keys: len(keys) > 1
    is_weight = lambda path, _: in_tower(_keys(path)) and _keys(path)[-1] not in UNDECAYED
    return jax.tree_util.tree_map_with_path(is_weight, params)


def _keys(path) -> list[str]:
    return [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
