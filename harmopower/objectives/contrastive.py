"""Contrastive losses over the global batch that never form a B x B matrix: CLIP's softmax and SigLIP's sigmoid.

Rows meet tile by tile (`harmopower.parallel.collectives`): the forward pass keeps a running log-sum-exp for the rows
and for the columns, the backward pass computes each tile of logits again. Memory is that of the features and one tile.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

from harmopower.arrays import AnyArray
from harmopower.parallel import collectives

# Stands for minus infinity; finite, so that a difference of two of them is no NaN.
NOTHING = -1e30


class Rows(NamedTuple):
    """The rows of one side: features [B, D], valid bool [B], group int32 [B], index int32 [B] in the global batch."""

    features: jax.Array
    valid: jax.Array
    group: jax.Array
    index: jax.Array


class _Sums(NamedTuple):
    """What a row has seen so far: the pieces of its log-sum-exp, and of its positives."""

    maximum: jax.Array
    total: jax.Array
    positive_maximum: jax.Array
    positive_total: jax.Array
    positive_count: jax.Array


def softmax_loss(
    image: Float[AnyArray, "B D"],
    text: Float[AnyArray, "B D"],
    logit_scale: Real[ArrayLike, ""],
    *,
    weight_rows: Shaped[AnyArray, "B"] | None = None,
    block: int | None = None,
    communication: str = "ring",
) -> tuple[Float[Array, ""], dict[str, ArrayLike]]:
    """CLIP's symmetric cross-entropy (METHOD section 4), each shard of the batch for its own rows.

    Args:
      image, text: [B, D], L2-normalised.
      logit_scale: scalar, already exponentiated and clamped.
      weight_rows: float [B]; the mean runs over the weighted rows, a row of weight 0 is no negative either. None: ones.
      block: rows of a tile; None chooses.
      communication: how shards meet, "auto", "ring" or "gather" (see `harmopower.parallel.collectives`).
    Returns:
      loss, and metrics `accuracy_image_to_text` and `accuracy_text_to_image`: how often the pair itself is the best.
    """
    weight = row_weights(image, weight_rows)
    group = jnp.arange(image.shape[0], dtype=jnp.int32)
    per_image, per_text, image_hits, text_hits = info_nce(
        image, text, weight > 0, group, logit_scale, block=block, communication=communication
    )
    loss = (weighted_mean(per_image, weight) + weighted_mean(per_text, weight)) / 2
    return loss, {
        "accuracy_image_to_text": weighted_mean(image_hits, weight),
        "accuracy_text_to_image": weighted_mean(text_hits, weight),
    }


def sigmoid_loss(
    image: Float[AnyArray, "B D"],
    text: Float[AnyArray, "B D"],
    logit_scale: Real[ArrayLike, ""],
    logit_bias: Real[ArrayLike, ""],
    *,
    weight_rows: Shaped[AnyArray, "B"] | None = None,
    block: int | None = None,
    communication: str = "ring",
) -> tuple[Float[Array, ""], dict[str, ArrayLike]]:
    """SigLIP's pairwise loss (METHOD section 4): every pair of the global batch is its own binary question.

    Args:
      image, text: [B, D], L2-normalised.
      logit_scale, logit_bias: scalars; the scale already exponentiated.
      weight_rows: float [B]; the mean runs over the weighted images, a row of weight 0 is no negative either.
      block: rows of a tile; None chooses.
      communication: how shards meet, "auto", "ring" or "gather".
    Returns:
      loss, and metrics `positive_logit`, `accuracy` (share of pairs with a positive logit).
    """
    weight = row_weights(image, weight_rows)
    meeting = collectives.arrange(image, block, collectives.tile_rows(), communication)
    sides = collectives.pad_rows((image, text, weight > 0), meeting.block)
    per_image = _sigmoid_rows(meeting, *sides, jnp.float32(logit_scale), jnp.float32(logit_bias))[: image.shape[0]]
    positive = logit_scale * jnp.sum(image.astype(jnp.float32) * text.astype(jnp.float32), axis=-1) + logit_bias
    return weighted_mean(per_image, weight), {
        "positive_logit": weighted_mean(lax.stop_gradient(positive), weight),
        "accuracy": weighted_mean(lax.stop_gradient(positive > 0), weight),
    }


def info_nce(
    a: Float[AnyArray, "P D"],
    b: Float[AnyArray, "P D"],
    valid: Bool[AnyArray, "P"],
    group: Int[AnyArray, "P"],
    logit_scale: Real[ArrayLike, ""],
    *,
    duplicates: str = "positives",
    block: int | None = None,
    communication: str = "ring",
) -> tuple[Float[Array, "P"], Float[Array, "P"], Bool[Array, "P"], Bool[Array, "P"]]:
    """Cross-entropy of every row of `a` over the rows of `b` and the other way round, rows of one group positive.

    Args:
      a, b: [P, D], L2-normalised; row p of `a` belongs to row p of `b`.
      valid: bool [P]; other rows are on neither axis of the softmax, and what is returned for them means nothing.
      group: int32 [P]; equal numbers are equal things.
      logit_scale: scalar.
      duplicates: "positives": the targets are uniform over the group; "ignore": only the row itself is positive, the
        rest of its group is left out.
      block: rows of a tile; None chooses.
      communication: how shards meet, "auto", "ring" or "gather".
    Returns:
      losses of the rows of `a` [P] and of `b` [P]; whether the best candidate is a positive, for `a` and for `b` [P].
    """
    if duplicates not in ("positives", "ignore"):
        raise ValueError(f"duplicates is {duplicates!r}; choose 'positives' or 'ignore'")
    rows = a.shape[0]
    meeting = collectives.arrange(a, block, collectives.tile_rows(), communication)
    sides = collectives.pad_rows((a, b, valid, group), meeting.block)
    results = _info_nce(duplicates, meeting, *sides, jnp.float32(logit_scale))
    return tuple(result[:rows] for result in results)


def pair_flops(rows: int, width: int, hardware: bool = False) -> float:
    """Products of `rows` against `rows`, value and gradient: the logits and two gradients.

    With `hardware` the logits once more, which the backward pass computes again.
    """
    return (4 if hardware else 3) * 2 * rows**2 * width


def weighted_mean(values: Shaped[AnyArray, "*rows"], weight: Float[AnyArray, "*rows"]) -> Float[Array, ""]:
    """Mean of values [B] over rows of weight [B]; 0 where no row has weight, whatever the values of the others are."""
    total = jnp.sum(jnp.where(weight > 0, values, 0) * weight, dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(weight, dtype=jnp.float32), 1e-6)


def row_weights(features: Float[AnyArray, "B ..."], weight_rows: Shaped[AnyArray, "B"] | None) -> Float[Array, "B"]:
    """The weights of the rows of features [B, ...] as float32 [B]; None stands for ones."""
    return jnp.ones(features.shape[0], jnp.float32) if weight_rows is None else jnp.asarray(weight_rows, jnp.float32)


def _similarities(guest, home):
    """Inner products of features [g, D] and [h, D] in float32, products of float32 inputs not rounded."""
    return jnp.einsum("gd,hd->gh", guest, home, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _two_sides(a, b, valid, group):
    index = jnp.arange(a.shape[0], dtype=jnp.int32)
    return Rows(a, valid, group, index), Rows(b, valid, group, index)


def _relations(duplicates, guest: Rows, home: Rows):
    """Which pairs of a tile count at all, and which of them are positive: bool [g, h] each."""
    allowed = guest.valid[:, None] & home.valid[None, :]
    same_group = guest.group[:, None] == home.group[None, :]
    if duplicates == "positives":
        return allowed, allowed & same_group
    same_row = guest.index[:, None] == home.index[None, :]
    return allowed & (same_row | ~same_group), allowed & same_row


def _no_sums(rows: int) -> _Sums:
    nothing, zero = jnp.full(rows, NOTHING), jnp.zeros(rows)
    return _Sums(maximum=nothing, total=zero, positive_maximum=nothing, positive_total=zero, positive_count=zero)


def _merge(one: _Sums, other: _Sums) -> _Sums:
    """What a row has seen that has seen both."""
    maximum = jnp.maximum(one.maximum, other.maximum)
    return _Sums(
        maximum=maximum,
        total=one.total * jnp.exp(one.maximum - maximum) + other.total * jnp.exp(other.maximum - maximum),
        positive_maximum=jnp.maximum(one.positive_maximum, other.positive_maximum),
        positive_total=one.positive_total + other.positive_total,
        positive_count=one.positive_count + other.positive_count,
    )


def _tile_sums(logits, positive, axis: int) -> _Sums:
    """The sums over the candidates along `axis` of a tile of logits [g, h] (NOTHING where not allowed)."""
    maximum = logits.max(axis)
    return _Sums(
        maximum=maximum,
        total=jnp.exp(logits - jnp.expand_dims(maximum, axis)).sum(axis),
        positive_maximum=jnp.where(positive, logits, NOTHING).max(axis),
        positive_total=jnp.where(positive, logits, 0).sum(axis),
        positive_count=positive.sum(axis, dtype=jnp.float32),
    )


def _finish(sums: _Sums):
    """Log-sum-exp, number of positives, loss, and whether a positive is the best candidate, for every row."""
    normaliser = sums.maximum + jnp.log(jnp.maximum(sums.total, 1e-30))
    count = jnp.maximum(sums.positive_count, 1)
    return normaliser, count, normaliser - sums.positive_total / count, sums.positive_maximum >= sums.maximum


def _info_nce_sums(duplicates, meeting, a, b, valid, group, scale):
    def tile(home, home_sums, guest, guest_sums, scale):
        allowed, positive = _relations(duplicates, guest, home)
        logits = jnp.where(allowed, scale * _similarities(guest.features, home.features), NOTHING)
        return tuple(
            _merge(sums, _tile_sums(logits, positive, axis)) for axis, sums in enumerate((home_sums, guest_sums))
        )

    def shard(axes, rows, scale):
        guest, home = rows
        empty = _no_sums(home.valid.shape[0])
        return collectives.meet(partial(tile, scale=scale), home, empty, guest, empty, meeting, axes, combine=_merge)

    b_sums, a_sums = collectives.over_batch(shard, _two_sides(a, b, valid, group), scale)
    return _finish(a_sums), _finish(b_sums)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _info_nce(duplicates, meeting, a, b, valid, group, scale):
    (*_, a_loss, a_hits), (*_, b_loss, b_hits) = _info_nce_sums(duplicates, meeting, a, b, valid, group, scale)
    return a_loss, b_loss, a_hits, b_hits


def _info_nce_forward(duplicates, meeting, a, b, valid, group, scale):
    a_results, b_results = _info_nce_sums(duplicates, meeting, a, b, valid, group, scale)
    (a_normaliser, a_count, a_loss, a_hits), (b_normaliser, b_count, b_loss, b_hits) = a_results, b_results
    kept = (a, b, valid, group, scale), (a_normaliser, a_count), (b_normaliser, b_count)
    return (a_loss, b_loss, a_hits, b_hits), kept


def _info_nce_backward(duplicates, meeting, kept, cotangents):
    """d loss / d logits = softmax - targets, tile by tile, once for the rows and once for the columns."""
    (a, b, valid, group, scale), a_known, b_known = kept
    a_cotangent, b_cotangent, *_ = cotangents

    def tile(home, home_sums, guest, guest_sums, scale):
        (home, home_known), (guest, guest_known) = home, guest
        allowed, positive = _relations(duplicates, guest, home)
        similarity = _similarities(guest.features, home.features)
        logits = jnp.where(allowed, scale * similarity, NOTHING)
        slope = _logit_slope(logits, positive, *(known[:, None] for known in guest_known))
        slope += _logit_slope(logits, positive, *(known[None, :] for known in home_known))
        return _add_tile_gradient(jnp.where(allowed, slope, 0), similarity, scale, home, home_sums, guest, guest_sums)

    def shard(axes, rows, scale):
        (guest, home), a_known, b_known = rows
        return collectives.meet(
            partial(tile, scale=scale),
            (home, b_known),
            jnp.zeros(home.features.shape),
            (guest, a_known),
            (jnp.zeros(guest.features.shape), jnp.zeros(guest.valid.shape)),
            meeting,
            axes,
        )

    rows = _two_sides(a, b, valid, group), (*a_known, a_cotangent), (*b_known, b_cotangent)
    d_b, (d_a, d_scale) = collectives.over_batch(shard, rows, scale)
    return d_a.astype(a.dtype), d_b.astype(b.dtype), None, None, d_scale.sum()


def _logit_slope(logits, positive, normaliser, count, cotangent):
    return cotangent * (jnp.exp(logits - normaliser) - positive / count)


def _add_tile_gradient(slope, similarity, scale, home: Rows, d_home, guest: Rows, guest_sums):
    """Chain rule from d loss / d logits [g, h] to the features of both sides and, per guest row, the scale."""
    d_guest, d_scale = guest_sums
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    d_home += product("gh,gd->hd", scale * slope, guest.features)
    d_guest += product("gh,hd->gd", scale * slope, home.features)
    return d_home, (d_guest, d_scale + (slope * similarity).sum(1))


_info_nce.defvjp(_info_nce_forward, _info_nce_backward)


def _sigmoid_tile(guest: Rows, home: Rows, scale, bias):
    """Similarities, signs (+1 on the diagonal, -1 elsewhere) and which pairs count, for one tile [g, h]."""
    sign = jnp.where(guest.index[:, None] == home.index[None, :], 1.0, -1.0)
    similarity = _similarities(guest.features, home.features)
    return similarity, sign, sign * (scale * similarity + bias), guest.valid[:, None] & home.valid[None, :]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid_rows(meeting, image, text, valid, scale, bias):
    """Sum over the valid texts of the negative log-likelihood, for every image: [B]."""

    def shard(axes, rows, shared):
        guest, home = rows

        def tile(home, home_sums, guest, guest_sums):
            _, _, margin, allowed = _sigmoid_tile(guest, home, *shared)
            return home_sums, guest_sums + jnp.where(allowed, jax.nn.softplus(-margin), 0).sum(1)

        return collectives.meet(tile, home, None, guest, jnp.zeros(guest.valid.shape), meeting, axes)[1]

    return collectives.over_batch(shard, _two_sides(image, text, valid, valid), (scale, bias))


def _sigmoid_forward(meeting, image, text, valid, scale, bias):
    return _sigmoid_rows(meeting, image, text, valid, scale, bias), (image, text, valid, scale, bias)


def _sigmoid_backward(meeting, kept, cotangent):
    image, text, valid, scale, bias = kept

    def shard(axes, rows, shared):
        (guest, home), cotangent = rows
        scale, bias = shared

        def tile(home, d_home, guest, guest_sums):
            (guest, cotangent), (guest_sums, d_bias) = guest, guest_sums
            similarity, sign, margin, allowed = _sigmoid_tile(guest, home, scale, bias)
            slope = jnp.where(allowed, -sign * jax.nn.sigmoid(-margin) * cotangent[:, None], 0)
            sums = _add_tile_gradient(slope, similarity, scale, home, d_home, guest, guest_sums)
            return sums[0], (sums[1], d_bias + slope.sum(1))

        d_guest, zero = jnp.zeros(guest.features.shape), jnp.zeros(guest.valid.shape)
        return collectives.meet(
            tile, home, jnp.zeros(home.features.shape), (guest, cotangent), ((d_guest, zero), zero), meeting, axes
        )

    rows = _two_sides(image, text, valid, valid), cotangent
    d_text, ((d_image, d_scale), d_bias) = collectives.over_batch(shard, rows, (scale, bias))
    return d_image.astype(image.dtype), d_text.astype(text.dtype), None, d_scale.sum(), d_bias.sum()


_sigmoid_rows.defvjp(_sigmoid_forward, _sigmoid_backward)
