"""From tower outputs to one loss, in two stages: `gather_features`, then `total_loss`.

Between the two lies everything that the losses know of a batch. Exact accumulation caches it: features of all slices
first, the gradient of the loss by the features, then one backward pass a slice (DESIGN section 3).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmopower.features import phrases, regions
from harmopower.features.vectors import normalise
from harmopower.objectives import contrastive, powerset, region


class Features(NamedTuple):
    """What the losses need of a batch; a field that no active objective needs is None. All vectors share one space."""

    image: jax.Array  # [B, D] L2-normalised
    text: jax.Array  # [B, D] L2-normalised
    weight: jax.Array  # [B] 0 for a bad record
    regions: jax.Array | None = None  # [B, M, D] L2-normalised, 0 where region_mask is False
    region_mask: jax.Array | None = None  # [B, M]
    phrases: jax.Array | None = None  # [B, K, D] sums of L2-normalised leaves
    phrase_mask: jax.Array | None = None  # [B, K]
    lexemes: jax.Array | None = None  # [B, M, D] L2-normalised
    pair_mask: jax.Array | None = None  # [B, M] the region has a lexeme
    region_text: jax.Array | None = None  # [B, R, D] L2-normalised: own texts of the first R regions, or their crops
    text_mask: jax.Array | None = None  # [B, R] the region has a region_text
    group: jax.Array | None = None  # [B, M] int32, equal for equal texts


class Active(NamedTuple):
    """Which inputs the objectives of weight above 0 ask for, so that pipeline and towers can leave out the rest."""

    regions: bool
    phrases: bool
    region_text: bool
    crops: bool


def active(objective) -> Active:
    """Reads from `config.objective` which inputs are needed.

    Lexemes come from the caption's own pass. Only `lexeme_region.own_text` adds a second text pass, for the regions
    that have a text of their own and no span in the caption.
    """
    lexeme_region, global_region = objective.lexeme_region, objective.global_region
    aligns = global_region.weight > 0
    powerset_on = objective.powerset.weight > 0
    return Active(
        regions=lexeme_region.weight > 0 or aligns or powerset_on,
        phrases=lexeme_region.weight > 0 or powerset_on,
        region_text=_uses_own_text(lexeme_region) or (aligns and global_region.mode == "text"),
        crops=aligns and global_region.mode == "crop",
    )


def _uses_own_text(lexeme_region) -> bool:
    return lexeme_region.weight > 0 and lexeme_region.get("own_text", False)


# --- first stage: features -----------------------------------------------------------------------------------------


def gather_features(
    image_tower, text_tower, batch, objective, grid, *, region_text_tower=None, region_text_content=None, crops=None
) -> Features:
    """Reads the vectors that the active objectives need from the outputs of the towers (METHOD sections 1 to 3, 5).

    Args:
      image_tower, text_tower: objects with `pooled` [B, D] and `tokens` [B, N, D] or [B, T, D], in the shared space,
        not normalised.
      batch: mapping with the keys of DESIGN's `Batch` that are needed, and `box_group` int32 [B, M], equal for equal
        texts; with patch dropout `kept_patches` int32 [B, N], which patches the image tokens are.
      objective: `config.objective`.
      grid: rows and columns of patches.
      region_text_tower: outputs for the own texts of the first R regions, `pooled` [B, R, D] and `tokens` [B, R, S, D];
        None where the data have none.
      region_text_content: bool [B, R, S], the content tokens of those texts; a region without any has no own text.
      crops: [B, M, D] image embeddings of the enlarged boxes, for `global_region.mode = "crop"`.
    """
    needs = active(objective)
    fields = dict(image=normalise(image_tower.pooled), text=normalise(text_tower.pooled))
    fields["weight"] = jnp.asarray(batch["weight"], jnp.float32)
    if needs.regions:
        fields["regions"], fields["region_mask"] = regions.pool_regions(
            image_tower.tokens,
            batch["boxes"],
            batch["box_valid"],
            grid,
            objective.region_pooling,
            batch.get("kept_patches"),
        )
    if objective.powerset.weight > 0:
        fields["phrases"], fields["phrase_mask"] = phrases.sum_phrases(
            text_tower.tokens, batch["phrases"], objective.powerset.phrase_norm
        )
    if objective.lexeme_region.weight > 0:
        own = (region_text_tower, region_text_content) if _uses_own_text(objective.lexeme_region) else ()
        fields["lexemes"], fields["pair_mask"] = phrases.pool_lexemes(
            text_tower.tokens, batch["phrases"], batch["box_phrase"], *own
        )
    if objective.global_region.weight > 0:
        fields["region_text"], fields["text_mask"] = _region_targets(
            objective.global_region.mode, fields["region_mask"], region_text_tower, region_text_content, crops
        )
    if objective.lexeme_region.weight > 0 or objective.global_region.weight > 0:
        fields["group"] = batch["box_group"]
    return Features(**fields)


def _region_targets(mode, region_mask, region_text_tower, region_text_content, crops):
    """What GR pulls the first R regions towards, [B, R, D] L2-normalised, and which of them have it, bool [B, R]."""
    if mode == "crop":
        if crops is None:
            raise ValueError("objective.global_region.mode is 'crop' but no crop embeddings were given")
        return normalise(crops, region_mask), region_mask
    if region_text_tower is None:
        raise ValueError(
            "objective.global_region.weight is above 0 with mode 'text' but the data have no texts of regions; "
            "set the weight to 0, the mode to crop, or prepare data with region texts"
        )
    mask = region_text_content.any(-1)
    return normalise(region_text_tower.pooled, mask), mask


# --- second stage: the loss ----------------------------------------------------------------------------------------


def total_loss(features: Features, scales, objective, step, rng):
    """`w_g global + w_lrc LRC + w_gr GR + w_ps powerset` (METHOD section 7), over the global batch.

    Args:
      features: of the global batch, inside a mesh sharded on their leading axis.
      scales: mapping with `logit_scale` (exponentiated, clamped), and where the config asks for them `logit_bias`
        (`global_contrastive.kind = "sigmoid"`) and `region_scale` (`lexeme_region.temperature = "own"`).
      objective: `config.objective`; a term of weight 0 is not built.
      step: scalar, for the warm-ups.
      rng: key, for `powerset.method = "sampled"`.
    Returns:
      loss, and float32 metrics: `loss/total`, and for each active term `loss/NAME`, `weight/NAME`, `NAME/...`.
    """
    total, metrics = jnp.float32(0), {}
    for name, term in _TERMS.items():
        if objective[name].weight > 0:
            loss, details = term(features, scales, objective, rng)
            weight = warm_up(objective[name], step)
            total += weight * loss
            metrics |= {f"loss/{name}": loss, f"weight/{name}": weight}
            metrics |= {f"{name}/{detail}": value for detail, value in details.items()}
    metrics["loss/total"] = total
    return total, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def warm_up(term, step):
    """The weight of a term at a step: it grows linearly over `warmup_steps`, if there are any, then stays."""
    steps = term.get("warmup_steps", 0)
    return jnp.float32(term.weight) * (jnp.minimum((step + 1) / steps, 1) if steps else 1)


def _global_contrastive(features: Features, scales, objective, rng):
    rows = dict(weight_rows=features.weight, communication=objective.communication)
    if objective.global_contrastive.kind == "sigmoid":
        return contrastive.sigmoid_loss(
            features.image, features.text, scales["logit_scale"], scales["logit_bias"], **rows
        )
    return contrastive.softmax_loss(features.image, features.text, scales["logit_scale"], **rows)


def _lexeme_region(features: Features, scales, objective, rng):
    valid = _valid_pairs(features, features.pair_mask)
    scale = _region_scale(scales, objective)
    rows = (_flat(array) for array in (features.regions, features.lexemes, valid, features.group))
    loss, metrics = region.pair_loss(
        *rows, scale, duplicates=objective.lexeme_region.duplicates, communication=objective.communication
    )
    return loss, metrics | _share(valid, features)


def _global_region(features: Features, scales, objective, rng):
    valid = _valid_pairs(features, features.text_mask)
    with_text = features.text_mask.shape[1]  # the other regions would only be padding in a loss of B M x B M
    phi, group = features.regions[:, :with_text], features.group[:, :with_text]
    if objective.global_region.mode == "crop":
        loss, metrics = region.crop_loss(phi, features.region_text, valid)
    else:
        rows = (_flat(array) for array in (phi, features.region_text, valid, group))
        loss, metrics = region.pair_loss(
            *rows,
            _region_scale(scales, objective),
            duplicates=objective.lexeme_region.duplicates,
            communication=objective.communication,
        )
    return loss, metrics | _share(valid, features)


def _powerset(features: Features, scales, objective, rng):
    """A pair without a region or without a phrase has no powerset: it is no row and no negative."""
    term = objective.powerset
    usable = features.region_mask.any(1) & features.phrase_mask.any(1)
    return powerset.powerset_loss(
        features.regions,
        features.region_mask,
        features.phrases,
        features.phrase_mask,
        margin=term.margin,
        weight_rows=features.weight * usable,
        rng=rng if term.method == "sampled" else None,
        method=term.method,
        temperature=term.temperature,
        zeta=term.zeta,
        samples=term.samples,
        score_norm=term.score_norm,
        communication=objective.communication,
    )


_TERMS = {
    "global_contrastive": _global_contrastive,
    "lexeme_region": _lexeme_region,
    "global_region": _global_region,
    "powerset": _powerset,
}


def _valid_pairs(features: Features, has_target):
    return features.region_mask[:, : has_target.shape[1]] & has_target & (features.weight > 0)[:, None]


def _region_scale(scales, objective):
    return scales["region_scale"] if objective.lexeme_region.temperature == "own" else scales["logit_scale"]


def _flat(array):
    """[B, M, ...] -> [B M, ...]; the batch stays the leading axis, so shards stay where they are."""
    return array.reshape((-1,) + array.shape[2:])


def _share(valid, features: Features):
    """Share of the regions that have a pair."""
    return {"active": valid.sum() / jnp.maximum(features.region_mask.sum(), 1)}
