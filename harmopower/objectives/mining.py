"""Which negatives a triplet term learns from, and what it makes of them (METHOD section 6, docs/powerset.md).

The paper's form, the hardest negative alone, has a trivial solution into which batches of near-duplicates push it. What
stands here are ways out of it. They choose from scores that the search meets anyway: none scores a pair more.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from harmopower.arrays import AnyArray
from harmopower.objectives.contrastive import NOTHING, weighted_mean

NEGATIVES = ("hardest", "semi_hard", "top_k", "hardest_of")
LOSSES = ("triplet", "softmax")
SCALE = "powerset_scale"
START = 5.0  # one over the default margin: a score a margin above the own one then weighs e times as much (our choice)
# A score that a rounding of float32 could have lowered is no score below the positive: near-duplicates would be chosen
# by their last digit, and by another one on another tile.
TIE = 1e-5
SHARE = 2  # folded into a step's key: the share of the batch is not drawn from what patches or subsets are drawn from


@dataclasses.dataclass(frozen=True)
class Mining:
    """How negatives are chosen and used; the fields are keys of `config.objective.powerset`, the defaults the paper's.

    Attributes:
      negatives: "hardest"; "semi_hard", the hardest of those that score below the positive (FaceNet, arXiv 1503.03832);
        "top_k", the hardest so many; "hardest_of", the hardest of a random share of the batch that grows to 1.
      top_k: how many.
      loss: "triplet", the mean over them, or "softmax", the cross-entropy of the own pair against them.
      negative_share_steps: over which the share grows to 1.
    """

    negatives: str = "hardest"
    top_k: int = 8
    loss: str = "triplet"
    negative_share_steps: int = 0

    def __post_init__(self):
        for name, choices in (("negatives", NEGATIVES), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"objective.powerset.{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )

    @property
    def count(self) -> int:
        """Negatives a row and a column."""
        return self.top_k if self.negatives == "top_k" else 1

    def offered(self, rows: int, step: Int[ArrayLike, ""], rng: PRNGKeyArray | None) -> Bool[Array, "B"] | None:
        """Which rows of the global batch serve as negatives in this step, bool [B]; None for all.

        Each with the same probability, `(step + 1) / negative_share_steps`; a function of the step and its key alone.
        """
        if self.negatives != "hardest_of":
            return None
        if rng is None:
            raise ValueError("objective.powerset.negatives 'hardest_of' draws rows but rng is None; pass a key")
        share = (step + 1) / max(self.negative_share_steps, 1)
        return jax.random.uniform(jax.random.fold_in(rng, SHARE), (rows,)) < share

    def allowed(self, scores: AnyArray, own: AnyArray) -> AnyArray:
        """Which scores may be chosen beside an own score of the shape `own`; True for all."""
        return scores < own - TIE * (1 + jnp.abs(own)) if self.negatives == "semi_hard" else jnp.bool_(True)


PAPER = Mining()


def loss_of_scores(
    own: Float[AnyArray, "B"],
    hard_text: Float[AnyArray, "B k"],
    hard_image: Float[AnyArray, "B k"],
    margin: float,
    weight: Float[AnyArray, "B"],
    scale: Float[ArrayLike, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, ArrayLike]]:
    """Loss and metrics from the own score and the hardest ones of every row, the hardest first; -inf is none.

    Args:
      own, hard_text, hard_image: the scores.
      margin: of the triplet loss; of softmax it only says which rows count as `active`.
      weight: float32 [B].
      scale: one over the temperature of softmax; None for the triplet loss.
    Returns:
      loss, and metrics: number of `pairs` (rows of weight above 0), `active` share of the 2 B rows (whose hardest
      negative comes within the margin), mean `positive`, `hard_text` and `hard_image` scores of the hardest, and the
      mean `gap`, the own score minus the hardest, over the rows that have one.
    """
    sides, loss = (hard_text, hard_image), jnp.float32(0)
    for hard in sides:
        losses = _triplet(hard, own, margin) if scale is None else _cross_entropy(hard, own, scale)
        loss += weighted_mean(losses, weight)
    hardest = [hard[:, 0] for hard in sides]
    found = [weight * jnp.isfinite(hard) for hard in hardest]
    metrics = {
        "active": sum(weighted_mean(hard - own + margin > 0, weight) for hard in hardest) / 2,
        "pairs": (weight > 0).sum(),
        "positive": weighted_mean(own, weight),
        "hard_text": weighted_mean(hardest[0], found[0]),
        "hard_image": weighted_mean(hardest[1], found[1]),
        "gap": sum(weighted_mean(own - hard, rows) for hard, rows in zip(hardest, found)) / 2,
    }
    return loss, lax.stop_gradient(metrics)


def _above(hard, own):
    """How far above the own score, 0 where there is none, and where there is one: so that no slope meets infinity."""
    found = jnp.isfinite(hard)
    return jnp.where(found, hard, own[:, None]) - own[:, None], found


def _triplet(hard, own, margin: float):
    above, found = _above(hard, own)
    return jnp.where(found, jax.nn.relu(above + margin), 0).sum(1) / jnp.maximum(found.sum(1), 1)


def _cross_entropy(hard, own, scale):
    above, found = _above(hard, own)
    logits = jnp.where(found, scale * above, NOTHING)
    return jax.nn.logsumexp(jnp.pad(logits, ((0, 0), (1, 0))), axis=1)  # the own pair's logit is 0
