"""Triplet losses on the hardest negatives of the global batch, in two sweeps, whatever scores a pair.

A row's loss uses three scores: its own pair's, its hardest text's, its hardest image's. So the first sweep searches all
pairs without gradient, tile by tile, for the hardest of every row; the second differentiates only the `3 B` scores
found (METHOD section 6). No matrix of all pairs ever exists, and the gradient is that of the loss that would use one.
Which scores count as hardest and how many are kept is said by `mining.py`; `k` below is 1 in the paper's form.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from harmopower.arrays import AnyArray
from harmopower.objectives.mining import PAPER, Mining, loss_of_scores
from harmopower.parallel import collectives


class Side(NamedTuple):
    """Images or texts: vectors [b, M, D] each, and which of them are real, bool [b, M]."""

    vectors: AnyArray
    mask: AnyArray

    def real(self) -> jax.Array:
        """The vectors, those that are not real 0."""
        return jnp.where(self.mask[..., None], self.vectors, 0)


@runtime_checkable
class Scorer(Protocol):
    """What gives an image-text pair its score. Hashable: it is compiled in, and what it needs of arrays is `drawn`."""

    def tile(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        """Scores of all pairs of some images and some texts: float32 [images, texts]."""
        ...

    def pairs(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        """Scores of image p and text p: float32 [pairs]."""
        ...

    def gradients(
        self, images: Side, texts: Side, cotangent: AnyArray, drawn: AnyArray | None
    ) -> tuple[AnyArray, AnyArray]:
        """Gradients of the sum of `cotangent` [pairs] times `pairs` by the vectors of both sides, float32."""
        ...


def triplet_loss(
    scorer: Scorer,
    images: Side,
    texts: Side,
    weight: Float[AnyArray, "B"],
    *,
    margin: float,
    numbers: int,
    communication: str,
    block: int | None = None,
    drawn: AnyArray | None = None,
    mining: Mining = PAPER,
    offered: Bool[AnyArray, "B"] | None = None,
    scale: Float[ArrayLike, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, ArrayLike]]:
    """`mean_i relu(max_{j != i} X_ij - X_ii + margin)` on the scores X of all pairs and on their transpose, summed.

    Inside a mesh (`jax.set_mesh`) every shard of the batch searches its own texts against the images of all shards, or
    its own images against all texts, if those have fewer vectors.

    Args:
      scorer: what gives the scores.
      images, texts: of the batch; row p of one belongs to row p of the other.
      weight: float32 [B]; the mean runs over the weighted rows, a row of weight 0 is no negative either.
      margin: delta of the loss.
      numbers: in the largest array that `scorer.tile` makes, a pair; chooses the rows of a tile.
      block: rows of a tile; None chooses.
      communication: how shards meet (see `harmopower.parallel.collectives`).
      drawn: what the scorer needs of arrays, the same for all pairs.
      mining: which negatives are taken.
      offered: which rows may be, of those of weight above 0; None for all.
      scale: of the loss "softmax", one over its temperature.
    Returns:
      loss, and metrics: those of `mining.loss_of_scores`, and the `spread` of the scores, their standard deviation over
      all pairs of rows of weight above 0, own ones included, by which a term is seen that scores everything alike.
    """
    if (mining.loss == "softmax") != (scale is not None):
        raise ValueError(f"objective.powerset.loss is {mining.loss!r} and scale {scale}; softmax and no other has one")
    rows, valid = weight.shape[0], weight > 0
    offered = valid if offered is None else valid & offered
    travelling = traveller(images.vectors, texts.vectors)
    meeting = collectives.arrange(travelling, block, collectives.tile_rows(numbers), communication)
    padded = collectives.pad_rows((images, texts, valid, offered), meeting.block)
    *found, moments = _triplet_scores(scorer, meeting, mining, *padded, drawn)
    own, hard_text, hard_image = (scores[:rows] for scores in found)
    loss, metrics = loss_of_scores(own, hard_text, hard_image, margin, weight, scale)
    return loss, metrics | {"spread": lax.stop_gradient(_deviation(moments))}


def evaluations(batch: int, count: int = 1) -> int:
    """How many pairs are scored: all and the own ones once more by the search, and twice those that the loss uses.

    These are `3 B`, or with `count` hardest `(1 + 2 count) B`. The derivative of a scored pair costs about twice its
    value: the value again, then the slopes.
    """
    return batch * batch + batch + 2 * (1 + 2 * count) * batch


def matrix_products(batch: int, products: int, count: int = 1) -> int:
    """Operations of the inner products of value and gradient, where a pair takes so many; a gradient takes three."""
    return (batch * batch + batch + 3 * (1 + 2 * count) * batch) * products


def inner_products(equation: str, *arrays: AnyArray) -> jax.Array:
    """Einsum with float32 sums, and with float32 inputs not rounded to a shorter type first."""
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


# --- first sweep: the search ---------------------------------------------------------------------------------------


class _Best(NamedTuple):
    """The k best candidates so far of every row [..., k], the best first: scores, and indices in the global batch.

    Of equal scores the lower index comes first, so that the order of the tiles does not matter; -inf is no candidate.
    """

    score: jax.Array
    index: jax.Array


def _merge(best: _Best, other: _Best) -> _Best:
    """As many of both together as `best` holds."""
    if (count := best.score.shape[-1]) == 1:  # spares the paper's form a sort
        better = (other.score > best.score) | ((other.score == best.score) & (other.index < best.index))
        return _Best(*(jnp.where(better, new, old) for new, old in zip(other, best)))
    joined = (jnp.concatenate(both, axis=-1) for both in ((-best.score, -other.score), (best.index, other.index)))
    below, index = lax.sort(tuple(joined), num_keys=2)
    return _Best(-below[..., :count], index[..., :count])


def _best_along(scores, index, axis: int, count: int) -> _Best:
    """The best along an axis of a tile, at most `count`."""
    if count == 1:
        return _Best(scores.max(axis)[:, None], index[scores.argmax(axis)][:, None])
    score, place = lax.top_k(scores if axis else scores.T, min(count, scores.shape[axis]))
    return _Best(score, index[place])


class _Moments(NamedTuple):
    """Of the scores met so far, for every home row: how many, their mean, and the sum of squared distances from it.

    Not the sum of squares: of scores that are nearly equal, which is what they are carried for, float32 keeps nothing
    of its difference from the square of the sum.
    """

    count: jax.Array
    mean: jax.Array
    squares: jax.Array


def _moments_along(scores, counted, axis: int) -> _Moments:
    count = counted.sum(axis).astype(jnp.float32)
    mean = jnp.where(counted, scores, 0).sum(axis) / jnp.maximum(count, 1)
    return _Moments(count, mean, jnp.where(counted, jnp.square(scores - jnp.expand_dims(mean, axis)), 0).sum(axis))


def _join_moments(one: _Moments, other: _Moments) -> _Moments:
    count, distance = one.count + other.count, other.mean - one.mean
    share = other.count / jnp.maximum(count, 1)
    squares = one.squares + other.squares + jnp.square(distance) * one.count * share
    return _Moments(count, one.mean + distance * share, squares)


def _deviation(moments: _Moments):
    """The standard deviation over the rows of all shards."""
    count = jnp.maximum(moments.count.sum(), 1)
    mean = (moments.count * moments.mean).sum() / count
    return jnp.sqrt((moments.squares + moments.count * jnp.square(moments.mean - mean)).sum() / count)


def traveller(images: Shaped[AnyArray, "B M D"], texts: Shaped[AnyArray, "B K D"]) -> Shaped[AnyArray, "B _ D"]:
    """Which of images [B, M, D] and texts [B, K, D] travels: those with fewer vectors a row."""
    return images if images.shape[1] <= texts.shape[1] else texts


def _home_first(images: Side, texts: Side, pair) -> tuple:
    """Orders (of the images, of the texts) as (home, guest), and back."""
    images_travel = traveller(images.vectors, texts.vectors) is images.vectors
    return tuple(pair)[::-1] if images_travel else tuple(pair)


class _Rows(NamedTuple):
    """One side of a shard: which rows there are, which may be chosen, their global indices, their own pairs' scores."""

    side: Side
    valid: jax.Array
    offered: jax.Array
    index: jax.Array
    own: jax.Array


def _search(scorer, meeting, mining, axes, images, texts, drawn):
    """The hardest texts of every image, the hardest images of every text, and the moments of every home row."""
    home_first = partial(_home_first, images.side, texts.side)
    along_guests = home_first((1, 0))[0]

    def tile(home, home_sums, guest, guest_best):
        home_best, moments = home_sums
        images, texts = home_first((home, guest))
        scores = scorer.tile(images.side, texts.side, drawn)
        both_valid = images.valid[:, None] & texts.valid
        moments = _join_moments(moments, _moments_along(scores, both_valid, along_guests))
        found = _hardest_of_tile(scores, both_valid, mining, images, texts)
        hardest = (_merge(*pair) for pair in zip(home_first((home_best, guest_best)), found))
        home_best, guest_best = home_first(hardest)
        return (home_best, moments), guest_best

    home, guest = home_first((images, texts))
    shape = images.index.shape + (mining.count,)
    nobody = _Best(jnp.full(shape, -jnp.inf), jnp.full(shape, jnp.iinfo(jnp.int32).max))
    nothing = _Moments(*[jnp.zeros(images.index.shape)] * 3)
    (home_best, moments), guest_best = collectives.meet(
        tile, home, (nobody, nothing), guest, nobody, meeting, axes, combine=_merge
    )
    return *home_first((home_best, guest_best)), moments


def _hardest_of_tile(scores, both_valid, mining, images: _Rows, texts: _Rows) -> tuple[_Best, _Best]:
    """Of a tile [images, texts]: for its images the hardest texts, for its texts the hardest images."""
    others = both_valid & (images.index[:, None] != texts.index)
    text = others & texts.offered & mining.allowed(scores, images.own[:, None])
    image = others & images.offered[:, None] & mining.allowed(scores, texts.own)
    best = lambda candidates, index, axis: _best_along(
        jnp.where(candidates, scores, -jnp.inf), index, axis, mining.count
    )
    return best(text, texts.index, 1), best(image, images.index, 0)


def _own_scores(scorer, block: int, images, texts, drawn):
    """The score of every row's own pair, in blocks because the products copy their rows."""
    score = lambda rows: scorer.pairs(*rows, drawn)
    return lax.map(score, collectives.split_blocks((images, texts), block)).reshape(-1)


def _triplets(scorer, meeting, mining, images, texts, valid, offered, drawn):
    def shard(axes, rows, drawn):
        images, texts, valid, offered, index = rows
        own = _own_scores(scorer, meeting.block, images, texts, drawn)
        images, texts = (_Rows(side, valid, offered, index, own) for side in (images, texts))
        return own, *_search(scorer, meeting, mining, axes, images, texts, drawn)

    index = jnp.arange(valid.shape[0], dtype=jnp.int32)
    return collectives.over_batch(shard, (images, texts, valid, offered, index), drawn)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _triplet_scores(scorer, meeting: collectives.Meeting, mining: Mining, images, texts, valid, offered, drawn):
    """Scores of every row: own pair [B], hardest texts and images [B, k]; -inf where there is none.

    And the moments of all scores, which have no gradient.
    """
    own, hard_text, hard_image, moments = _triplets(scorer, meeting, mining, images, texts, valid, offered, drawn)
    return own, hard_text.score, hard_image.score, moments


# --- second sweep: the gradient ------------------------------------------------------------------------------------


class _Hardest(NamedTuple):
    """Hardest partners of every row: indices in the global batch, and derivatives of the loss by their scores."""

    index: jax.Array
    cotangent: jax.Array


def _forward(scorer, meeting, mining, *arrays):
    own, hard_text, hard_image, moments = _triplets(scorer, meeting, mining, *arrays)
    return (own, hard_text.score, hard_image.score, moments), (arrays, hard_text.index, hard_image.index)


def _backward(scorer, meeting, mining, kept, cotangents):
    """The derivative of the `(1 + 2 k) B` scores, each pair computed where its home row lives."""
    (images, texts, valid, _, drawn), hard_text, hard_image = kept
    index = jnp.arange(valid.shape[0], dtype=jnp.int32)
    d_own, d_hard_text, d_hard_image, _ = cotangents
    hardest = _Hardest(hard_text, d_hard_text), _Hardest(hard_image, d_hard_image)
    d_images, d_texts = collectives.over_batch(
        partial(_shard_gradient, scorer, meeting), (images, texts, index, hardest, d_own), drawn
    )
    # A mask has no gradient.
    by_side = lambda gradient, side: Side(gradient.astype(side.vectors.dtype), None)  # pyright: ignore[reportArgumentType]
    return by_side(d_images, images), by_side(d_texts, texts), None, None, None


_triplet_scores.defvjp(_forward, _backward)


def _shard_gradient(scorer, meeting, axes, rows, drawn):
    """Gradient of this shard's images and texts; the guests bring their hardest partners and collect gradients."""
    images, texts, index, hardest, d_own = rows
    home_first = partial(_home_first, images, texts)

    def add_pairs(sides, sums, rows, cotangent):
        """All pairs are given as (home, guest); None stands for the row itself."""
        of_sides = home_first(sides), home_first(sums), home_first(rows)
        return home_first(_add_pair_gradients(scorer, meeting.block, drawn, *of_sides, cotangent))

    def visit(home_sums, guest, guest_sums):
        guest_side, guest_index, guest_hardest = guest
        sides = home, guest_side

        def add_column(sums, hardest):
            of_guests, of_home = hardest
            at_home, cotangent = _localise(of_guests, index)
            sums = add_pairs(sides, sums, (at_home, None), cotangent)
            visiting, cotangent = _localise(of_home, guest_index)
            return add_pairs(sides, sums, (None, visiting), cotangent), None

        columns = jax.tree.map(jnp.transpose, (guest_hardest, home_hardest))
        return lax.scan(add_column, (home_sums, guest_sums), columns)[0]

    (home, guest), (home_hardest, guest_hardest) = home_first((images, texts)), home_first(hardest)
    zeros = home_first((jnp.zeros(images.vectors.shape), jnp.zeros(texts.vectors.shape)))
    sums = collectives.visit_shards(
        visit, zeros[0], (guest, index, guest_hardest), zeros[1], meeting.communication, axes
    )
    return home_first(add_pairs((home, guest), sums, (None, None), d_own))


def _localise(hardest: _Hardest, index):
    """Where in the rows numbered `index` the hardest partners are; the cotangent of those elsewhere becomes 0."""
    local = hardest.index - index[0]
    there = (local >= 0) & (local < index.shape[0])
    return jnp.where(there, local, 0), jnp.where(there, hardest.cotangent, 0)


def _add_pair_gradients(scorer, block: int, drawn, sides, sums, rows, cotangents):
    """Adds to the gradients (of images, of texts) those of the scores of the pairs (image_rows[p], text_rows[p]).

    A side whose rows are None has row p in pair p: slices of it are read and written in place. Gathering and
    scattering, which the other side needs, cost more than the products.
    """

    def add(sums, pairs):
        start, rows, cotangent = pairs
        image, text = (
            jax.tree.map(partial(_take, rows=side_rows, start=start, count=block), side)
            for side, side_rows in zip(sides, rows)
        )
        found = scorer.gradients(image, text, cotangent, drawn)
        return tuple(_add_at(total, side, start, new) for total, side, new in zip(sums, rows, found)), None

    starts = jnp.arange(0, cotangents.shape[0], block)
    return lax.scan(add, tuple(sums), (starts, *collectives.split_blocks((tuple(rows), cotangents), block)))[0]


def _take(array, rows, start, count: int):
    return lax.dynamic_slice_in_dim(array, start, count) if rows is None else array[rows]


def _add_at(total, rows, start, new):
    if rows is not None:
        return total.at[rows].add(new)
    before = lax.dynamic_slice_in_dim(total, start, new.shape[0])
    return lax.dynamic_update_slice_in_dim(total, before + new, start, 0)
