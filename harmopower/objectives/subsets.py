"""How well the subsets of an image's regions fit the phrases of a caption: the aggregators of METHOD section 6.

docs/powerset.md derives what stands here. A block of scores has the shape `[*, M, K, n]`: every reduction then runs
over whole vectors of pairs. A tile of a search is `[images, M, K, texts]`, a list of pairs `[M, K, pairs]`. Scores of
masked regions are 0, which is what they add to a sum over a subset; the phrases' mask `[K, n]` goes along, and the
number of valid regions `[*, 1 or n]`.
"""

import dataclasses
from functools import partial

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from harmopower.arrays import AnyArray
from harmopower.combinations import MAX_EXACT_REGIONS
from harmopower.objectives.contrastive import NOTHING

# A product of this many factors in 1/2 .. 1 is far from the smallest float32, 2 ** -126.
_SAFE_FACTORS = 64


CHOICES = {
    "method": ("exact", "nla", "sampled", "single"),
    "direction": ("both", "tree_to_region", "region_to_tree"),
    "score_norm": ("sum", "mean"),
}


@dataclasses.dataclass(frozen=True)
class How:
    """How a pair is scored; the fields are the keys of `config.objective.powerset`."""

    method: str = "nla"
    direction: str = "both"
    temperature: float = 1e-3
    zeta: float = 0.75
    samples: int = 256
    score_norm: str = "sum"

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"objective.powerset.{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if self.method == "nla" and not self.temperature > 0:
            raise ValueError(f"objective.powerset.temperature is {self.temperature}; nla needs one above 0")

    def join(self, tree_to_region: jax.Array, region_to_tree: jax.Array) -> jax.Array:
        """What of both directions, or of their slopes, is the score."""
        alone = {"tree_to_region": tree_to_region, "region_to_tree": region_to_tree}
        return alone[self.direction] if self.direction in alone else tree_to_region + region_to_tree

    def check_regions(self, regions: int) -> None:
        """Raises ValueError where `exact` would have to enumerate too many subsets."""
        if self.method == "exact" and regions > MAX_EXACT_REGIONS:
            raise ValueError(
                f"objective.powerset.method 'exact' takes at most {MAX_EXACT_REGIONS} regions but there are {regions}; "
                "set objective.powerset.method to nla or sampled, or lower data.max_boxes"
            )


def draw_subsets(how: How, regions: int, rng: PRNGKeyArray | None) -> Float[Array, "samples M"] | None:
    """The uniform subsets of "sampled" as float32 [samples, M] of 0 and 1; None for the other methods."""
    if how.method != "sampled":
        return None
    if rng is None:
        raise ValueError("objective.powerset.method 'sampled' draws subsets but rng is None; pass a jax.random.key")
    return jax.random.bernoulli(rng, shape=(how.samples, regions)).astype(jnp.float32)


# --- a block of scores: values and slopes --------------------------------------------------------------------------


def to_block(
    s: Float[AnyArray, "*pairs M K"], region_mask: Bool[AnyArray, "..."], phrase_mask: Bool[AnyArray, "..."]
) -> tuple[Float[Array, "M K n"], Int[Array, "n"], Bool[Array, "K n"], tuple[int, ...]]:
    """[..., M, K] -> block [M, K, pairs], number of regions [pairs], phrase mask [K, pairs], and the leading shape."""
    shape = s.shape[:-2]
    region_mask = jnp.broadcast_to(region_mask, s.shape[:-1]).reshape(-1, s.shape[-2])
    phrase_mask = jnp.broadcast_to(phrase_mask, shape + s.shape[-1:]).reshape(-1, s.shape[-1])
    block = jnp.moveaxis(s.astype(jnp.float32).reshape((-1,) + s.shape[-2:]), 0, -1)
    return jnp.where(region_mask.T[:, None, :], block, 0), region_mask.sum(1), phrase_mask.T, shape


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def aggregate(
    how: How,
    s: Float[AnyArray, "*tile M K n"],
    regions: Shaped[AnyArray, "..."],
    phrase_mask: Bool[AnyArray, "K n"],
    subsets: Float[AnyArray, "samples M"] | None,
) -> tuple[Float[Array, "*tile n"], Float[Array, "*tile n"]]:
    """T2R and R2T of a block of scores [*, M, K, n]: two arrays [*, n].

    The derivative keeps `s` and nothing else: softplus, subset sums and winners are computed again.
    """
    if how.method == "nla":
        return _nla(how, s, regions, phrase_mask)
    if how.method == "single":
        return _single(s, regions, phrase_mask)
    best = _exact if how.method == "exact" else partial(_sampled, subsets=subsets)
    return closed_tree_to_region(s, phrase_mask), best(s, phrase_mask)


def _aggregate_forward(how, s, regions, phrase_mask, subsets):
    return aggregate(how, s, regions, phrase_mask, subsets), (s, regions, phrase_mask, subsets)


def _aggregate_backward(how, kept, cotangents):
    tree_to_region, region_to_tree = slopes(how, *kept)
    d_tree_to_region, d_region_to_tree = (cotangent[..., None, None, :] for cotangent in cotangents)
    return d_tree_to_region * tree_to_region + d_region_to_tree * region_to_tree, None, None, None


aggregate.defvjp(_aggregate_forward, _aggregate_backward)


def slopes(
    how: How,
    s: Float[AnyArray, "*tile M K n"],
    regions: Shaped[AnyArray, "..."],
    phrase_mask: Bool[AnyArray, "K n"],
    subsets: Float[AnyArray, "samples M"] | None,
) -> tuple[Float[Array, "*tile M K n"], Float[Array, "*tile M K n"]]:
    """Derivatives of T2R and R2T by s [*, M, K, n]: two arrays of its shape, 0 for masked phrases.

    For masked regions they are arbitrary: their scores are constants.
    """
    if how.method == "nla":
        tree_to_region, region_to_tree = _nla_slopes(how, s, phrase_mask)
    elif how.method == "single":
        tree_to_region, region_to_tree = _single_slopes(s, regions, phrase_mask)
    else:
        winners = _exact_slope if how.method == "exact" else partial(_sampled_slope, subsets=subsets)
        tree_to_region, region_to_tree = (s > 0) / _phrase_count(phrase_mask), winners(s, phrase_mask)
    return jnp.where(phrase_mask, tree_to_region, 0), jnp.where(phrase_mask, region_to_tree, 0)


def _phrase_count(phrase_mask):
    return jnp.maximum(phrase_mask.sum(-2), 1)


def _mean_over_phrases(values, phrase_mask):
    return jnp.where(phrase_mask, values, 0).sum(-2) / _phrase_count(phrase_mask)


def _zero_without_phrases(values, phrase_mask):
    return jnp.where(phrase_mask.any(-2), values, 0)


def closed_tree_to_region(
    s: Float[AnyArray, "*tile M K n"], phrase_mask: Bool[AnyArray, "K n"]
) -> Float[Array, "*tile n"]:
    """T2R of a block of scores, the sum of what is above 0: [*, n]."""
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


# --- single: regions in place of subsets (PowerCLIP's ablation) ----------------------------------------------------


def _single(s, regions, phrase_mask):
    """The best single region of a phrase, or none, as among all subsets; the mean over regions of the best phrase."""
    best = jnp.where(phrase_mask, s, NOTHING).max(-2).sum(-2)  # a masked region's is 0
    region_to_tree = _zero_without_phrases(best / jnp.maximum(regions, 1), phrase_mask)
    return _mean_over_phrases(jax.nn.relu(s.max(-3)), phrase_mask), region_to_tree


def _single_slopes(s, regions, phrase_mask):
    count = jnp.maximum(regions, 1)[..., None, None, :]
    chosen = jnp.moveaxis(_winners(jnp.moveaxis(s, -3, -2)), -2, -3) * (s > 0) / _phrase_count(phrase_mask)
    return chosen, _winners(jnp.where(phrase_mask, s, NOTHING)) / count
