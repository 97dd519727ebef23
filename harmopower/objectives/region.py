"""What regions and texts are compared with (HarmoCLIP): the contrastive loss, the loss against crops, temperatures."""

import math

from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real
from ml_collections import ConfigDict

from harmopower.arrays import AnyArray
from harmopower.objectives import contrastive
from harmopower.objectives.objective import Loss, Scalars, Scale


def pair_loss(
    a: Float[AnyArray, "P D"],
    b: Float[AnyArray, "P D"],
    valid: Bool[AnyArray, "P"],
    group: Int[AnyArray, "P"],
    logit_scale: Real[ArrayLike, ""],
    *,
    duplicates: str = "positives",
    block: int | None = None,
    communication: str = "ring",
) -> Loss:
    """Symmetric InfoNCE between the valid rows of `a` and `b` (LRC, and GR with texts; METHOD section 5, our choice).

    Args:
      a, b: [P, D] L2-normalised; row p of `a` belongs to row p of `b`.
      valid: bool [P]; padding is masked out of both softmax axes.
      group: int32 [P]; rows with equal numbers have the same text.
      logit_scale: scalar, exponentiated.
      duplicates: "positives": all rows of the group are positives, targets row-normalised; "ignore": the others of the
        group are left out.
      block: rows of a tile; None chooses.
      communication: how shards meet, "auto", "ring" or "gather" (see `harmopower.parallel.collectives`).
    Returns:
      loss (0 without a valid pair), and metrics `pairs` (their number) and `accuracy` (the best candidate is
      a positive, both ways).
    """
    per_a, per_b, a_hits, b_hits = contrastive.info_nce(
        a, b, valid, group, logit_scale, duplicates=duplicates, block=block, communication=communication
    )
    weight = valid.astype(jnp.float32)
    loss = (contrastive.weighted_mean(per_a, weight) + contrastive.weighted_mean(per_b, weight)) / 2
    accuracy = (contrastive.weighted_mean(a_hits, weight) + contrastive.weighted_mean(b_hits, weight)) / 2
    return loss, {"pairs": weight.sum(), "accuracy": accuracy}


def crop_loss(
    regions: Float[AnyArray, "*rows D"], crops: Float[AnyArray, "*rows D"], valid: Bool[AnyArray, "*rows"]
) -> Loss:
    """`1 - cosine(phi, stop_gradient(embedding of the crop))`, mean over the valid regions (GR `crop`, our choice).

    Args:
      regions, crops: [..., D] L2-normalised.
      valid: bool [...].
    """
    cosine = jnp.sum(regions.astype(jnp.float32) * lax.stop_gradient(crops).astype(jnp.float32), axis=-1)
    weight = valid.astype(jnp.float32)
    return contrastive.weighted_mean(1 - cosine, weight), {"pairs": weight.sum()}


def own_scale(settings: ConfigDict, name: str) -> tuple[Scale, ...]:
    """The scale of that name, which an objective learns if its `temperature` is "own"; it starts as CLIP's."""
    return (Scale(name, math.log(1 / 0.07)),) if settings.temperature == "own" else ()


def scale_of(settings: ConfigDict, scales: Scalars, name: str) -> ArrayLike:
    """The scale of an objective: its own of that name, or the `logit_scale` shared with the global objective."""
    return scales[name if settings.temperature == "own" else "logit_scale"]


def share(valid: Bool[AnyArray, "B R"], region_mask: Bool[AnyArray, "B M"]) -> dict[str, Array]:
    """The metric `active`: how many of the regions [B, M] have a pair, of those valid [B, R]."""
    return {"active": valid.sum() / jnp.maximum(region_mask.sum(), 1)}
