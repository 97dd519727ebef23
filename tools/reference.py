"""The powerset loss as a reader of the paper would write it: every pair at once, differentiated automatically.

For tests, benchmarks and plots. Nothing here is clever, and memory grows with `B x B x M x K`.
"""

import jax
import jax.numpy as jnp

from harmopower.objectives import mining, powerset
from harmopower.objectives.contrastive import row_weights


def scored_loss(regions, region_mask, phrases, phrase_mask, *, margin, weight_rows=None, rng=None, **how):
    """`powerset_loss` computed from `dense_scores`."""
    scores = powerset.dense_scores(regions, region_mask, phrases, phrase_mask, rng=rng, **how)
    return triplet_loss(scores, row_weights(regions, weight_rows), margin)


def triplet_loss(scores, weight, margin):
    """Loss and metrics of the hardest negatives in a matrix [B, B] of scores; rows of weight 0 are no negatives."""
    valid = weight > 0
    others = valid[:, None] & valid[None, :] & ~jnp.eye(len(scores), dtype=bool)
    candidates = jnp.where(others, scores, -jnp.inf)
    hard_text = _pick(scores, candidates.argmax(1), others.any(1))
    hard_image = _pick(scores.T, candidates.argmax(0), others.any(0))
    loss, metrics = mining.loss_of_scores(jnp.diagonal(scores), hard_text[:, None], hard_image[:, None], margin, weight)
    return loss, metrics | {"spread": jnp.std(scores, where=valid[:, None] & valid[None, :])}


def _pick(scores, index, found):
    return jnp.where(found, jnp.take_along_axis(scores, index[:, None], axis=1)[:, 0], -jnp.inf)


def dense_loss(regions, region_mask, phrases, phrase_mask, *, margin, method="nla", temperature=1e-3, zeta=0.75):
    """The triplet loss of METHOD section 6 from one tensor `s [B, B, M, K]`.

    Args:
      regions: [B, M, D]; region_mask: bool [B, M].
      phrases: [B, K, D]; phrase_mask: bool [B, K].
      margin, method ("exact" or "nla"), temperature, zeta: as in `powerset_loss`.
    """
    s = jnp.einsum("imd,jkd->ijmk", regions, phrases)
    return _triplet(_scores(s, region_mask, phrase_mask, method, temperature, zeta), margin)


def leaf_first_loss(regions, region_mask, leaves, members, *, margin, method="nla", temperature=1e-3, zeta=0.75):
    """The same loss with the inner products of regions and leaves first, `[B, B, M, T]`, and phrases summed from them.

    Args:
      regions: [B, M, D]; region_mask: bool [B, M].
      leaves: [B, T, D] L2-normalised tokens; members: bool [B, K, T], the tokens of each phrase, none for padding.
    """
    s = jnp.einsum("imd,jtd->ijmt", regions, leaves)
    s = jnp.einsum("ijmt,jkt->ijmk", s, members.astype(s.dtype))
    return _triplet(_scores(s, region_mask, members.any(-1), method, temperature, zeta), margin)


def _scores(s, region_mask, phrase_mask, method, temperature, zeta):
    """Scores [B, B] of s [B, B, M, K] from the formulas of METHOD section 6."""
    s = s.astype(jnp.float32) * region_mask[:, None, :, None]
    phrases = jnp.maximum(phrase_mask.sum(-1), 1)
    mean_over_phrases = lambda values: (values * phrase_mask).sum(-1) / phrases
    if method == "exact":
        best = jnp.where(phrase_mask[:, None, :], _all_subset_sums(s), -jnp.inf).max(-1).mean(-1)
        return mean_over_phrases(jax.nn.relu(s).sum(-2)) + best
    x, real = s / temperature, region_mask[:, None, :, None]
    half = x / 2 + zeta * (jax.nn.softplus(x) - x / 2 - jnp.log(2.0))
    exponent = jnp.where(phrase_mask, (half * real).sum(-2), -jnp.inf)
    smooth = mean_over_phrases((jax.nn.softplus(x) * real).sum(-2)) + jax.nn.logsumexp(exponent, axis=-1)
    return temperature * smooth


def _all_subset_sums(s):
    """[..., M, K] -> [..., 2^M, K]."""
    regions = s.shape[-2]
    subsets = (jnp.arange(2**regions)[:, None] >> jnp.arange(regions)) & 1
    return jnp.einsum("am,...mk->...ak", subsets.astype(s.dtype), s)


def _triplet(scores, margin):
    own = jnp.diagonal(scores)
    others = jnp.where(jnp.eye(len(scores), dtype=bool), -jnp.inf, scores)
    return sum(jax.nn.relu(others.max(axis) - own + margin).mean() for axis in (0, 1))
