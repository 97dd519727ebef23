"""The powerset objective of PowerCLIP: all subsets of the regions of an image against the phrases of a caption.

METHOD section 6 and docs/powerset.md derive what stands here. The loss takes two sweeps: a search without gradient over
all image-text pairs, tile by tile, for the hardest text of every image and the hardest image of every text; then a
backward pass through only the `3 B` pairs that the loss uses.

Inside, a block of scores has the shape `[*, M, K, n]`: every reduction then runs over whole vectors of pairs. A tile of
the search is `[images, M, K, texts]`, a list of pairs `[M, K, pairs]`. Scores of masked regions are 0, which is what
they add to a sum over a subset; the phrases' mask `[K, n]` goes along, and the number of valid regions `[*, 1 or n]`.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from harmopower.features.phrases import sum_phrases
from harmopower.objectives.contrastive import NOTHING, row_weights, weighted_mean
from harmopower.objectives.objective import Needs, Objective
from harmopower.parallel import collectives

MAX_EXACT_REGIONS = 12
# Numbers in the largest array of one tile. On a CPU 4 MiB, about a core's cache (measured: docs/benchmarks.md); an
# accelerator wants few large tiles, because every tile costs it some launches (reasoned, not measured).
TILE_ENTRIES = {"cpu": 2**20, "accelerator": 2**24}
# A product of this many factors in 1/2 .. 1 is far from the smallest float32, 2 ** -126.
_SAFE_FACTORS = 64


@dataclasses.dataclass(frozen=True)
class How:
    """How a pair is scored; the fields are the keys of `config.objective.powerset`."""

    method: str = "nla"
    temperature: float = 1e-3
    zeta: float = 0.75
    samples: int = 256
    score_norm: str = "sum"

    def __post_init__(self):
        for name, choices in (("method", ("exact", "nla", "sampled")), ("score_norm", ("sum", "mean"))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"objective.powerset.{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if self.method == "nla" and not self.temperature > 0:
            raise ValueError(f"objective.powerset.temperature is {self.temperature}; nla needs one above 0")

    def check_regions(self, regions: int):
        """Raises ValueError where `exact` would have to enumerate too many subsets."""
        if self.method == "exact" and regions > MAX_EXACT_REGIONS:
            raise ValueError(
                f"objective.powerset.method 'exact' takes at most {MAX_EXACT_REGIONS} regions but there are {regions}; "
                "set objective.powerset.method to nla or sampled, or lower data.max_boxes"
            )


# --- public: one block of scores -----------------------------------------------------------------------------------


def tree_to_region(s, region_mask, phrase_mask, *, temperature=None):
    """T2R: the mean over phrases of the best subset of regions, in closed form (METHOD section 6).

    Args:
      s: [..., M, K] inner products of regions and phrases.
      region_mask: bool [..., M].
      phrase_mask: bool [..., K].
      temperature: None for the exact `mean_k sum_m relu(s)`; else the aggregator T1 at that temperature.
    Returns:
      float32 [...]; 0 where there is no phrase or no region.
    """
    how = How("nla", temperature=temperature) if temperature is not None else None
    block, regions, phrase_mask, shape = _to_block(s, region_mask, phrase_mask)
    if how is None:
        return _closed_tree_to_region(block, phrase_mask).reshape(shape)
    return _aggregate(how, block, regions, phrase_mask, None)[0].reshape(shape)


def region_to_tree(s, region_mask, phrase_mask, *, method="exact", temperature=1e-3, zeta=0.75, samples=256, rng=None):
    """R2T: the mean over all subsets of the regions, the empty one included, of the best phrase (METHOD section 6).

    Args:
      s: [..., M, K] inner products of regions and phrases.
      region_mask: bool [..., M].
      phrase_mask: bool [..., K].
      method: "exact" (M at most 12, by the low-high split of the subset sums), "nla" (the aggregator T2) or "sampled"
        (the mean over `samples` uniform subsets, the same ones for every leading index).
      temperature, zeta: of T2; zeta weighs the log cosh (our reading of the paper).
      samples, rng: of "sampled"; the key is then needed.
    Returns:
      float32 [...]; 0 where there is no phrase or no region.
    """
    how = How(method, temperature=temperature, zeta=zeta, samples=samples)
    how.check_regions(s.shape[-2])
    block, regions, phrase_mask, shape = _to_block(s, region_mask, phrase_mask)
    return _aggregate(how, block, regions, phrase_mask, draw_subsets(how, s.shape[-2], rng))[1].reshape(shape)


def dense_scores(regions, region_mask, phrases, phrase_mask, *, rng=None, **how):
    """Scores of all image-text pairs at once, the reference of the two sweeps; for small batches only.

    Args:
      regions: [B_images, M, D]; region_mask: bool [B_images, M].
      phrases: [B_texts, K, D]; phrase_mask: bool [B_texts, K].
      rng, how: `method`, `temperature`, `zeta`, `samples`, `score_norm` (see `How`); `rng` for "sampled".
    Returns:
      float32 [B_images, B_texts], differentiable.
    """
    how = How(**how)
    how.check_regions(regions.shape[1])
    images, texts = _Images(regions, region_mask), _Texts(phrases, phrase_mask)
    return _tile_scores(how, images, texts, draw_subsets(how, regions.shape[1], rng))


def dense_loss(regions, region_mask, phrases, phrase_mask, *, margin, weight_rows=None, rng=None, **how):
    """`powerset_loss` computed from `dense_scores`; small batches only."""
    scores = dense_scores(regions, region_mask, phrases, phrase_mask, rng=rng, **how)
    weight = row_weights(regions, weight_rows)
    valid = weight > 0
    others = valid[:, None] & valid[None, :] & ~jnp.eye(len(scores), dtype=bool)
    candidates = jnp.where(others, scores, -jnp.inf)
    hard_text = _pick(scores, candidates.argmax(1), others.any(1))
    hard_image = _pick(scores.T, candidates.argmax(0), others.any(0))
    return _triplet(jnp.diagonal(scores), hard_text, hard_image, margin, weight)


def _pick(scores, index, found):
    return jnp.where(found, jnp.take_along_axis(scores, index[:, None], axis=1)[:, 0], -jnp.inf)


def powerset_loss(
    regions,
    region_mask,
    phrases,
    phrase_mask,
    *,
    margin,
    weight_rows=None,
    block=None,
    communication="ring",
    rng=None,
    **how,
):
    """Triplet loss on the hardest text of every image and the hardest image of every text (METHOD section 6).

    `mean_i relu(max_{j != i} X_ij - X_ii + margin)` on the scores X of all pairs and on their transpose, summed. Inside
    a mesh (`jax.set_mesh`) every shard of the batch searches its own texts against the images of all shards, or its own
    images against all texts, if those have fewer phrases than images have regions.

    Args:
      regions: [B, M, D] L2-normalised, float32 or bfloat16; products are summed in float32.
      region_mask: bool [B, M].
      phrases: [B, K, D] sums of leaves.
      phrase_mask: bool [B, K].
      margin: delta of the loss.
      weight_rows: float [B]; the mean runs over the weighted rows, a row of weight 0 is no negative either. None: ones.
      block: images and texts of a tile; None chooses from the shapes.
      communication: how shards meet, "ring" or "gather" (see `harmopower.parallel.collectives`).
      rng, how: `method`, `temperature`, `zeta`, `samples`, `score_norm` (see `How`); `rng` for "sampled".
    Returns:
      loss, and metrics: number of `pairs` (rows of weight above 0), `active` share of the 2 B rows, mean `positive`,
      `hard_text` and `hard_image` scores.
    """
    how = How(**how)
    rows, regions_an_image = regions.shape[:2]
    how.check_regions(regions_an_image)
    tile_rows = _default_block(how, regions_an_image, phrases.shape[1])
    meeting = collectives.arrange(rows, block, tile_rows, communication)
    weight = row_weights(regions, weight_rows)
    subsets = draw_subsets(how, regions_an_image, rng)
    padded = collectives.pad_rows((regions, region_mask, phrases, phrase_mask, weight > 0), meeting.block)
    own, hard_text, hard_image = (scores[:rows] for scores in _triplet_scores(how, meeting, *padded, subsets))
    return _triplet(own, hard_text, hard_image, margin, weight)


class Powerset(Objective):
    """The subsets of an image's regions against the phrases of the caption (METHOD section 6)."""

    name = "powerset"

    def needs(self):
        """Regions and phrases."""
        return Needs(regions=True, phrases=True)

    def features(self, towers, shared):
        """`phrases` [B, K, D], sums of L2-normalised leaves, and their `mask` [B, K]."""
        phrases, mask = sum_phrases(towers.text.tokens, towers.batch["phrases"], self.settings.phrase_norm)
        return {"phrases": phrases, "mask": mask}

    def loss(self, features, scales, rng):
        """See `powerset_loss`. A pair without a region or without a phrase is no row and no negative."""
        own, settings = features.own[self.name], self.settings
        usable = features.region_mask.any(1) & own["mask"].any(1)
        return powerset_loss(
            features.regions,
            features.region_mask,
            own["phrases"],
            own["mask"],
            margin=settings.margin,
            weight_rows=features.weight * usable,
            rng=rng if settings.method == "sampled" else None,
            communication=self.communication,
            **{field.name: settings[field.name] for field in dataclasses.fields(How)},
        )

    def flops(self, sizes, hardware=False):
        """Both sweeps: the search compares all pairs, whatever the settings."""
        subsets = self.settings.samples if self.settings.method == "sampled" else 0
        return matrix_products(sizes.batch, sizes.regions, sizes.phrases, sizes.width, subsets)

    def pooled(self, sizes):
        """Every token of the caption for every phrase."""
        return sizes.phrases * sizes.tokens


def evaluations(batch: int) -> int:
    """How many pairs are scored: all and the own ones once more by the search, and two times the `3 B` of the loss.

    The derivative of a scored pair costs about twice its value: the value again, then the slopes.
    """
    return batch * batch + batch + 2 * 3 * batch


def matrix_products(batch: int, regions: int, phrases: int, width: int, subsets: int) -> int:
    """Operations of the matrix products of value and gradient: of the scores, and of the sums over drawn subsets."""
    a_pair, scored = 2 * regions * phrases * width, 3 * batch
    sums = evaluations(batch) * 2 * subsets * regions * phrases
    return (batch * batch + batch + 3 * scored) * a_pair + sums


def _triplet(own, hard_text, hard_image, margin, weight):
    """Loss and metrics from the three scores of every row; a score of -inf is a row without a negative."""
    above_text, above_image = (hard - own + margin for hard in (hard_text, hard_image))
    loss = weighted_mean(jax.nn.relu(above_text), weight) + weighted_mean(jax.nn.relu(above_image), weight)
    active = (weighted_mean(above_text > 0, weight) + weighted_mean(above_image > 0, weight)) / 2
    found = weight * jnp.isfinite(hard_text)
    metrics = {
        "active": active,
        "pairs": (weight > 0).sum(),
        "positive": weighted_mean(own, weight),
        "hard_text": weighted_mean(hard_text, found),
        "hard_image": weighted_mean(hard_image, found),
    }
    return loss, lax.stop_gradient(metrics)


def draw_subsets(how: How, regions: int, rng):
    """The uniform subsets of "sampled" as float32 [samples, M] of 0 and 1; None for the other methods."""
    if how.method != "sampled":
        return None
    if rng is None:
        raise ValueError("objective.powerset.method 'sampled' draws subsets but rng is None; pass a jax.random.key")
    return jax.random.bernoulli(rng, shape=(how.samples, regions)).astype(jnp.float32)


# --- one block of scores: values and slopes ------------------------------------------------------------------------


def _to_block(s, region_mask, phrase_mask):
    """[..., M, K] -> block [M, K, pairs], number of regions [pairs], phrase mask [K, pairs], and the leading shape."""
    shape = s.shape[:-2]
    region_mask = jnp.broadcast_to(region_mask, s.shape[:-1]).reshape(-1, s.shape[-2])
    phrase_mask = jnp.broadcast_to(phrase_mask, shape + s.shape[-1:]).reshape(-1, s.shape[-1])
    block = jnp.moveaxis(s.astype(jnp.float32).reshape((-1,) + s.shape[-2:]), 0, -1)
    return jnp.where(region_mask.T[:, None, :], block, 0), region_mask.sum(1), phrase_mask.T, shape


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _aggregate(how: How, s, regions, phrase_mask, subsets):
    """T2R and R2T of a block of scores [*, M, K, n]: two arrays [*, n].

    The derivative keeps `s` and nothing else: softplus, subset sums and winners are computed again.
    """
    if how.method == "nla":
        return _nla(how, s, regions, phrase_mask)
    best = _exact if how.method == "exact" else partial(_sampled, subsets=subsets)
    return _closed_tree_to_region(s, phrase_mask), best(s, phrase_mask)


def _aggregate_forward(how, s, regions, phrase_mask, subsets):
    return _aggregate(how, s, regions, phrase_mask, subsets), (s, phrase_mask, subsets)


def _aggregate_backward(how, kept, cotangents):
    tree_to_region, region_to_tree = _slopes(how, *kept)
    d_tree_to_region, d_region_to_tree = (cotangent[..., None, None, :] for cotangent in cotangents)
    return d_tree_to_region * tree_to_region + d_region_to_tree * region_to_tree, None, None, None


_aggregate.defvjp(_aggregate_forward, _aggregate_backward)


def _slopes(how: How, s, phrase_mask, subsets):
    """Derivatives of T2R and R2T by s [*, M, K, n]: two arrays of its shape, 0 for masked phrases.

    For masked regions they are arbitrary: their scores are constants.
    """
    if how.method == "nla":
        slopes = _nla_slopes(how, s, phrase_mask)
    else:
        winners = _exact_slope if how.method == "exact" else partial(_sampled_slope, subsets=subsets)
        slopes = (s > 0) / _phrase_count(phrase_mask), winners(s, phrase_mask)
    return tuple(jnp.where(phrase_mask, slope, 0) for slope in slopes)


def _phrase_count(phrase_mask):
    return jnp.maximum(phrase_mask.sum(-2), 1)


def _mean_over_phrases(values, phrase_mask):
    return jnp.where(phrase_mask, values, 0).sum(-2) / _phrase_count(phrase_mask)


def _zero_without_phrases(values, phrase_mask):
    return jnp.where(phrase_mask.any(-2), values, 0)


def _closed_tree_to_region(s, phrase_mask):
    return _mean_over_phrases(jax.nn.relu(s).sum(-3), phrase_mask)


def _nla(how: How, s, regions, phrase_mask):
    """T1 and T2 from one softplus sum, by `log cosh(x/2) = softplus(x) - ln 2 - x/2`."""
    linear, softplus = _softplus_sums(s, how.temperature)
    exponent = jnp.where(phrase_mask, _exponent(how, linear, softplus), NOTHING)
    maximum = exponent.max(-2)
    log_sum = maximum + jnp.log(jnp.exp(exponent - maximum[..., None, :]).sum(-2))
    at_zero = regions * jnp.log(2.0) * phrase_mask.any(-2)
    tree_to_region = _mean_over_phrases(softplus, phrase_mask) + at_zero
    # Without a region there is nothing to smooth: tau ln K would be the score of an empty image.
    region_to_tree = jnp.where(regions > 0, _zero_without_phrases(log_sum, phrase_mask), 0)
    return how.temperature * tree_to_region, how.temperature * region_to_tree


def _exponent(how: How, linear, softplus):
    """The sum over regions of `x/2 + zeta log cosh(x/2)`."""
    return (1 - how.zeta) / 2 * linear + how.zeta * softplus


def _softplus_sums(s, temperature: float):
    """Sums over the regions of `x = s / temperature` and of `softplus(x) - ln 2`: two arrays [*, K, n].

    `softplus(x) - ln 2 = max(x, 0) + log((1 + exp(-|x|)) / 2)`: nothing for x = 0, so masked regions leave no rounding
    error. The sum of the logs is the log of one product of factors between 1/2 and 1. The loop over regions is written
    out because XLA then makes vectorised passes over `s`; as a reduction it is ten times slower on a CPU.
    """
    linear, positive, logs, product = 0.0, 0.0, 0.0, 1.0
    for region in range(s.shape[-3]):
        x = s[..., region, :, :] / temperature
        linear += x
        positive += jnp.maximum(x, 0)
        product *= 0.5 + 0.5 * jnp.exp(-jnp.abs(x))
        if (region + 1) % _SAFE_FACTORS == 0:
            logs, product = logs + jnp.log(product), 1.0
    return linear, positive + logs + jnp.log(product)


def _nla_slopes(how: How, s, phrase_mask):
    exponent = jnp.where(phrase_mask, _exponent(how, *_softplus_sums(s, how.temperature)), NOTHING)
    share = jax.nn.softmax(exponent, axis=-2)[..., None, :, :]
    sigmoid = jax.nn.sigmoid(s / how.temperature)
    return sigmoid / _phrase_count(phrase_mask), share * ((1 - how.zeta) / 2 + how.zeta * sigmoid)


# --- exact: all subsets by the low-high split ----------------------------------------------------------------------


def _subset_sums(s, start):
    """Sums over all subsets of the regions, plus start: [*, m, K, n] -> [2^m, *, K, n]; bit r of a row is region r."""
    sums = jnp.broadcast_to(start, (1,) + _without_regions(s))
    for region in range(s.shape[-3]):
        sums = jnp.concatenate([sums, sums + s[..., region, :, :]])
    return sums


def _without_regions(s):
    """The shape [*, K, n]."""
    return s.shape[:-3] + s.shape[-2:]


def _halves(s, phrase_mask):
    """Subset sums of the first and of the second half of the regions; every subset is one of each."""
    low = s.shape[-3] // 2
    start = jnp.where(phrase_mask, 0.0, NOTHING)
    return _subset_sums(s[..., :low, :, :], start), _subset_sums(s[..., low:, :, :], 0.0)


def _exact(s, phrase_mask):
    """Mean over all subsets of the best phrase. A masked region adds 0, which leaves the mean as it is."""
    low, high = _halves(s, phrase_mask)

    def add_row(total, low_sum):
        return total + (low_sum + high).max(-2).sum(0), None

    total, _ = lax.scan(add_row, jnp.zeros(s.shape[:-3] + s.shape[-1:]), low)
    return _zero_without_phrases(total / 2.0 ** s.shape[-3], phrase_mask)


def _exact_slope(s, phrase_mask):
    """d R2T / d s[m, k] = share of the subsets that hold m and whose best phrase is k; ties go to the lowest k."""
    low, high = _halves(s, phrase_mask)

    def count_winners(high_wins, low_sum):
        won = _winners(low_sum + high)
        return high_wins + won, won.sum(0)

    high_wins, low_wins = lax.scan(count_winners, jnp.zeros(high.shape), low)
    wins = jnp.concatenate([_wins_with_each_region(low_wins), _wins_with_each_region(high_wins)])
    return jnp.moveaxis(wins, 0, -3) / 2.0 ** s.shape[-3]


def _winners(sums):
    """One-hot best phrase over axis -2, float32 of the shape of sums [..., K, n]."""
    best = sums.argmax(-2)
    return (best[..., None, :] == jnp.arange(sums.shape[-2])[:, None]).astype(jnp.float32)


def _wins_with_each_region(wins):
    """[2^m, *, K, n] -> [m, *, K, n]: the sum over the subsets that hold each region."""
    regions = wins.shape[0].bit_length() - 1
    holds = (jnp.arange(wins.shape[0]) >> jnp.arange(regions)[:, None]) & 1
    return jnp.tensordot(holds.astype(jnp.float32), wins, axes=1)


# --- sampled: uniform subsets --------------------------------------------------------------------------------------


def _subset_chunks(subsets, regions: int):
    """[samples, M] -> [chunks, about M, M] and the mask of the real ones, so that a chunk of sums is as big as `s`."""
    missing = -len(subsets) % regions
    real = jnp.pad(jnp.ones(len(subsets)), (0, missing))
    return jnp.pad(subsets, ((0, missing), (0, 0))).reshape(-1, regions, regions), real.reshape(-1, regions)


def _sampled_sums(s, phrase_mask, chunk):
    """[*, M, K, n] -> [subsets of the chunk, *, K, n]."""
    sums = jnp.tensordot(chunk, s, axes=(1, s.ndim - 3), precision=lax.Precision.HIGHEST)
    return jnp.where(phrase_mask, sums, NOTHING)


def _sampled(s, phrase_mask, subsets):
    def add_chunk(total, chunk_and_real):
        chunk, real = chunk_and_real
        return total + jnp.tensordot(real, _sampled_sums(s, phrase_mask, chunk).max(-2), axes=1), None

    start = jnp.zeros(s.shape[:-3] + s.shape[-1:])
    total, _ = lax.scan(add_chunk, start, _subset_chunks(subsets, s.shape[-3]))
    return _zero_without_phrases(total / len(subsets), phrase_mask)


def _sampled_slope(s, phrase_mask, subsets):
    def count_winners(wins, chunk_and_real):
        chunk, _ = chunk_and_real  # a padded subset is empty, so no region gets its wins
        return wins + jnp.tensordot(chunk.T, _winners(_sampled_sums(s, phrase_mask, chunk)), axes=1), None

    regions = s.shape[-3]
    wins, _ = lax.scan(count_winners, jnp.zeros((regions,) + _without_regions(s)), _subset_chunks(subsets, regions))
    return jnp.moveaxis(wins, 0, -3) / len(subsets)


# --- two sweeps ----------------------------------------------------------------------------------------------------


class _Images(NamedTuple):
    regions: jax.Array  # [b, M, D]
    mask: jax.Array  # [b, M]


class _Texts(NamedTuple):
    phrases: jax.Array  # [b, K, D]
    mask: jax.Array  # [b, K]


class _Best(NamedTuple):
    """The best candidate so far of every row: its score and its index in the global batch; -inf where none was met."""

    score: jax.Array
    index: jax.Array


class _Hardest(NamedTuple):
    """The hardest partner of every row: its index in the global batch, and the derivative of the loss by its score."""

    index: jax.Array
    cotangent: jax.Array


def _default_block(how: How, regions: int, phrases: int) -> int:
    """Images and texts of a tile, a power of two, so that its largest array has at most TILE_ENTRIES numbers."""
    entries = TILE_ENTRIES["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    rows = regions if how.method != "exact" else 2 ** (regions - regions // 2)
    block = 8
    while (2 * block) ** 2 * rows * phrases <= entries:
        block *= 2
    return block


def _tile_scores(how: How, images: _Images, texts: _Texts, subsets):
    """Scores of all pairs of a block of images and a block of texts: [images, texts]."""
    # Phrases lead before the product: what comes out needs no transposition, which would cost more.
    s = _inner_products("imd,kjd->imkj", _masked(images), texts.phrases.swapaxes(0, 1))
    return _scores(how, s, images.mask.sum(1)[:, None], texts.mask.T, subsets)


def _scores(how: How, s, regions, phrase_mask, subsets):
    """The score of METHOD section 6, R2T + T2R, of a block [*, M, K, n]: [*, n]."""
    return _normalise(how, sum(_aggregate(how, s, regions, phrase_mask, subsets)), regions)


def _normalise(how: How, scores, regions):
    return scores / jnp.maximum(regions, 1) if how.score_norm == "mean" else scores


def _masked(images: _Images):
    return jnp.where(images.mask[..., None], images.regions, 0)


def _inner_products(equation: str, *arrays):
    """Einsum with float32 sums, and with float32 inputs not rounded to a shorter type first."""
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _merge(best: _Best, other: _Best) -> _Best:
    """The better of two; equal scores go to the lower index, so that the order of the tiles does not matter."""
    better = (other.score > best.score) | ((other.score == best.score) & (other.index < best.index))
    return _Best(*(jnp.where(better, new, old) for new, old in zip(other, best)))


def _best_along(scores, index, axis: int) -> _Best:
    return _Best(scores.max(axis), index[scores.argmax(axis)])


def _home_first(images: _Images, texts: _Texts, pair):
    """Orders (of the images, of the texts) as (home, guest), and back: the side with fewer vectors a row travels."""
    images_travel = images.regions.shape[1] <= texts.phrases.shape[1]
    return tuple(pair)[::-1] if images_travel else tuple(pair)


def _search(how: How, meeting, axes, images, texts, valid, index, subsets):
    """First sweep: the hardest text of every image and the hardest image of every text, over the global batch."""
    home_first = partial(_home_first, images, texts)

    def tile(home, home_best, guest, guest_best):
        (images, image_valid, image_index), (texts, text_valid, text_index) = home_first((home, guest))
        hard_text, hard_image = home_first((home_best, guest_best))
        candidate = image_valid[:, None] & text_valid[None, :] & (image_index[:, None] != text_index[None, :])
        scores = jnp.where(candidate, _tile_scores(how, images, texts, subsets), -jnp.inf)
        hard_text = _merge(hard_text, _best_along(scores, text_index, axis=1))
        return home_first((hard_text, _merge(hard_image, _best_along(scores, image_index, axis=0))))

    home, guest = home_first(((images, valid, index), (texts, valid, index)))
    nobody = _Best(jnp.full(index.shape, -jnp.inf), jnp.full(index.shape, jnp.iinfo(jnp.int32).max))
    return home_first(collectives.meet(tile, home, nobody, guest, nobody, meeting, axes, combine=_merge))


def _own_scores(how: How, block: int, images, texts, subsets):
    """The score of every row's own pair, in blocks because the products copy their rows."""

    def score(rows):
        images, texts = rows
        s = _inner_products("pmd,pkd->mkp", _masked(images), texts.phrases)
        return _scores(how, s, images.mask.sum(1), texts.mask.T, subsets)

    return lax.map(score, collectives.split_blocks((images, texts), block)).reshape(-1)


def _triplets(how: How, meeting, regions, region_mask, phrases, phrase_mask, valid, subsets):
    def shard(axes, rows, subsets):
        images, texts, valid, index = rows
        own = _own_scores(how, meeting.block, images, texts, subsets)
        return own, *_search(how, meeting, axes, images, texts, valid, index, subsets)

    index = jnp.arange(regions.shape[0], dtype=jnp.int32)
    rows = _Images(regions, region_mask), _Texts(phrases, phrase_mask), valid, index
    return collectives.over_batch(shard, rows, subsets)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _triplet_scores(how: How, meeting: collectives.Meeting, regions, region_mask, phrases, phrase_mask, valid, subsets):
    """Scores [B] of the own pair, the hardest text and the hardest image of every row; -inf where there is none."""
    own, hard_text, hard_image = _triplets(how, meeting, regions, region_mask, phrases, phrase_mask, valid, subsets)
    return own, hard_text.score, hard_image.score


def _triplet_scores_forward(how, meeting, *arrays):
    own, hard_text, hard_image = _triplets(how, meeting, *arrays)
    return (own, hard_text.score, hard_image.score), (arrays, hard_text.index, hard_image.index)


def _triplet_scores_backward(how, meeting, kept, cotangents):
    """Second sweep: the derivative of the `3 B` scores, each pair computed where its home row lives."""
    (regions, region_mask, phrases, phrase_mask, _, subsets), hard_text, hard_image = kept
    index = jnp.arange(regions.shape[0], dtype=jnp.int32)
    images, texts = _Images(regions, region_mask), _Texts(phrases, phrase_mask)
    d_own, d_hard_text, d_hard_image = cotangents
    hardest = _Hardest(hard_text, d_hard_text), _Hardest(hard_image, d_hard_image)
    d_regions, d_phrases = collectives.over_batch(
        partial(_shard_gradient, how, meeting), (images, texts, index, hardest, d_own), subsets
    )
    return d_regions.astype(regions.dtype), None, d_phrases.astype(phrases.dtype), None, None, None


def _shard_gradient(how: How, meeting, axes, rows, subsets):
    """Gradient of this shard's regions and phrases; the guests bring their hardest partners and collect gradients."""
    images, texts, index, hardest, d_own = rows
    home_first = partial(_home_first, images, texts)

    def add_pairs(features, sums, rows, cotangent):
        """All pairs are given as (home, guest); None stands for the row itself."""
        return home_first(
            _add_pair_gradients(
                how, meeting.block, subsets, home_first(features), home_first(sums), home_first(rows), cotangent
            )
        )

    def visit(home_sums, guest, guest_sums):
        guest_features, guest_index, guest_hardest = guest
        features, sums = (home, guest_features), (home_sums, guest_sums)
        at_home, cotangent = _localise(guest_hardest, index)
        sums = add_pairs(features, sums, (at_home, None), cotangent)
        visiting, cotangent = _localise(home_hardest, guest_index)
        return add_pairs(features, sums, (None, visiting), cotangent)

    (home, guest), (home_hardest, guest_hardest) = home_first((images, texts)), home_first(hardest)
    zeros = home_first((jnp.zeros(images.regions.shape), jnp.zeros(texts.phrases.shape)))
    sums = collectives.visit_shards(
        visit, zeros[0], (guest, index, guest_hardest), zeros[1], meeting.communication, axes
    )
    return home_first(add_pairs((home, guest), sums, (None, None), d_own))


def _localise(hardest: _Hardest, index):
    """Where in the rows numbered `index` the hardest partners are; the cotangent of those elsewhere becomes 0."""
    local = hardest.index - index[0]
    there = (local >= 0) & (local < index.shape[0])
    return jnp.where(there, local, 0), jnp.where(there, hardest.cotangent, 0)


def _add_pair_gradients(how: How, block: int, subsets, features, sums, rows, cotangents):
    """Adds to the gradients (regions, phrases) those of the scores of the pairs (image_rows[p], text_rows[p]).

    A side whose rows are None has row p in pair p: slices of it are read and written in place. Gathering and
    scattering, which the other side needs, cost more than the products.
    """

    def add(sums, pairs):
        start, rows, cotangent = pairs
        image, text = (
            jax.tree.map(partial(_take, rows=side, start=start, count=block), whole)
            for whole, side in zip(features, rows)
        )
        found = _pair_gradients(how, subsets, image, text, cotangent)
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


def _pair_gradients(how: How, subsets, image: _Images, text: _Texts, cotangent):
    """The gradients by regions [p, M, D] and by phrases [p, K, D] of the scores of the pairs (image p, text p)."""
    regions = _masked(image)
    s = _inner_products("pmd,pkd->mkp", regions, text.phrases)
    slope = _normalise(how, cotangent, image.mask.sum(1)) * sum(_slopes(how, s, text.mask.T, subsets))
    slope = jnp.where(image.mask.T[:, None, :], slope, 0)
    return _inner_products("mkp,pkd->pmd", slope, text.phrases), _inner_products("mkp,pmd->pkd", slope, regions)


_triplet_scores.defvjp(_triplet_scores_forward, _triplet_scores_backward)
