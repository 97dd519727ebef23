"""The powerset objective of PowerCLIP: all subsets of the regions of an image against the phrases of a caption.

METHOD section 6 and docs/powerset.md derive what stands here: `subsets.py` scores a block of pairs, `search.py` finds
and differentiates the pairs that the loss uses.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from harmopower.arrays import AnyArray
from harmopower.features.phrases import phrase_leaves, sum_phrases
from harmopower.objectives import search, subsets
from harmopower.objectives.contrastive import row_weights
from harmopower.objectives.mining import PAPER, SCALE, START, Mining
from harmopower.objectives.objective import Features, Loss, Needs, Objective, Scalars, Scale, Sizes, Towers
from harmopower.objectives.search import Side, inner_products
from harmopower.objectives.subsets import How


def tree_to_region(
    s: Float[AnyArray, "*pairs M K"],
    region_mask: Bool[AnyArray, "..."],
    phrase_mask: Bool[AnyArray, "..."],
    *,
    temperature: float | None = None,
) -> Float[Array, "*pairs"]:
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
    block, regions, phrase_mask, shape = subsets.to_block(s, region_mask, phrase_mask)
    if how is None:
        return subsets.closed_tree_to_region(block, phrase_mask).reshape(shape)
    return subsets.aggregate(how, block, regions, phrase_mask, None)[0].reshape(shape)


def region_to_tree(
    s: Float[AnyArray, "*pairs M K"],
    region_mask: Bool[AnyArray, "..."],
    phrase_mask: Bool[AnyArray, "..."],
    *,
    method: str = "exact",
    temperature: float = 1e-3,
    zeta: float = 0.75,
    samples: int = 256,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "*pairs"]:
    """R2T: the mean over all subsets of the regions, the empty one included, of the best phrase (METHOD section 6).

    Args:
      s: [..., M, K] inner products of regions and phrases.
      region_mask: bool [..., M].
      phrase_mask: bool [..., K].
      method: "exact" (M at most 12, by the low-high split of the subset sums), "nla" (the aggregator T2), "sampled"
        (the mean over `samples` uniform subsets, the same ones for every leading index) or "single" (over regions).
      temperature, zeta: of T2; zeta weighs the log cosh (our reading of the paper).
      samples, rng: of "sampled"; the key is then needed.
    Returns:
      float32 [...]; 0 where there is no phrase or no region.
    """
    how = How(method, temperature=temperature, zeta=zeta, samples=samples)
    how.check_regions(s.shape[-2])
    block, regions, phrase_mask, shape = subsets.to_block(s, region_mask, phrase_mask)
    drawn = subsets.draw_subsets(how, s.shape[-2], rng)
    return subsets.aggregate(how, block, regions, phrase_mask, drawn)[1].reshape(shape)


def dense_scores(
    regions: Float[AnyArray, "images M D"],
    region_mask: Bool[AnyArray, "images M"],
    phrases: Float[AnyArray, "texts K D"],
    phrase_mask: Bool[AnyArray, "texts K"],
    *,
    rng: PRNGKeyArray | None = None,
    **how: str | float,
) -> Float[Array, "images texts"]:
    """Scores of all image-text pairs at once, the reference of the two sweeps; for small batches only.

    Args:
      regions: [B_images, M, D]; region_mask: bool [B_images, M].
      phrases: [B_texts, K, D]; phrase_mask: bool [B_texts, K].
      rng, how: the fields of `How`; `rng` for "sampled".
    Returns:
      float32 [B_images, B_texts], differentiable.
    """
    scoring = How(**how)  # pyright: ignore[reportArgumentType] - it looks at them itself
    scoring.check_regions(regions.shape[1])
    images, texts = Side(regions, region_mask), Side(phrases, phrase_mask)
    return _Scorer(scoring).tile(images, texts, subsets.draw_subsets(scoring, regions.shape[1], rng))


def powerset_loss(
    regions: Float[AnyArray, "B M D"],
    region_mask: Bool[AnyArray, "B M"],
    phrases: Float[AnyArray, "B K D"],
    phrase_mask: Bool[AnyArray, "B K"],
    *,
    margin: float,
    weight_rows: Shaped[AnyArray, "B"] | None = None,
    block: int | None = None,
    communication: str = "ring",
    rng: PRNGKeyArray | None = None,
    mining: Mining = PAPER,
    offered: Bool[AnyArray, "B"] | None = None,
    scale: Float[ArrayLike, ""] | None = None,
    **how: str | float,
) -> Loss:
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
      communication: how shards meet, "auto", "ring" or "gather" (see `harmopower.parallel.collectives`).
      rng, how: the fields of `How`; `rng` for "sampled".
      mining, offered, scale: which negatives are taken and how (see `search.triplet_loss`); the default is the paper's.
    Returns:
      loss, and metrics (see `search.triplet_loss`).
    """
    scoring = How(**how)  # pyright: ignore[reportArgumentType] - it looks at them itself
    count = regions.shape[1]
    scoring.check_regions(count)
    return search.triplet_loss(
        _Scorer(scoring),
        Side(regions, region_mask),
        Side(phrases, phrase_mask),
        row_weights(regions, weight_rows),
        margin=margin,
        numbers=phrases.shape[1] * (count if scoring.method != "exact" else 2 ** (count - count // 2)),
        block=block,
        communication=communication,
        drawn=subsets.draw_subsets(scoring, count, rng),
        mining=mining,
        offered=offered,
        scale=scale,
    )


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """The score of METHOD section 6, R2T + T2R or one of them; what is drawn are the subsets of "sampled"."""

    how: How

    def tile(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        # Phrases lead before the product: what comes out needs no transposition, which would cost more.
        s = inner_products("imd,kjd->imkj", images.real(), texts.vectors.swapaxes(0, 1))
        return self._scores(s, images.mask.sum(1)[:, None], texts.mask.T, drawn)

    def pairs(self, images: Side, texts: Side, drawn: AnyArray | None) -> jax.Array:
        s = inner_products("pmd,pkd->mkp", images.real(), texts.vectors)
        return self._scores(s, images.mask.sum(1), texts.mask.T, drawn)

    def gradients(
        self, images: Side, texts: Side, cotangent: AnyArray, drawn: AnyArray | None
    ) -> tuple[AnyArray, AnyArray]:
        regions = images.real()
        s = inner_products("pmd,pkd->mkp", regions, texts.vectors)
        count = images.mask.sum(1)
        slope = self.how.join(*subsets.slopes(self.how, s, count, texts.mask.T, drawn))
        slope = self._normalise(cotangent, count) * slope
        slope = jnp.where(images.mask.T[:, None, :], slope, 0)
        return inner_products("mkp,pkd->pmd", slope, texts.vectors), inner_products("mkp,pmd->pkd", slope, regions)

    def _scores(self, s, regions, phrase_mask, drawn):
        """Of a block [*, M, K, n]: [*, n]."""
        return self._normalise(self.how.join(*subsets.aggregate(self.how, s, regions, phrase_mask, drawn)), regions)

    def _normalise(self, scores, regions):
        return scores / jnp.maximum(regions, 1) if self.how.score_norm == "mean" else scores


class Powerset(Objective):
    """The subsets of an image's regions against the phrases of the caption (METHOD section 6)."""

    name = "powerset"

    def needs(self) -> Needs:
        """Regions and phrases."""
        return Needs(regions=True, phrases=True)

    def features(self, towers: Towers, shared: Features) -> dict[str, AnyArray]:
        """`phrases` [B, K, D], sums of L2-normalised leaves, or [B, T, D], the leaves; and their `mask`."""
        tokens, members = towers.text.tokens, towers.batch["phrases"]
        if self.settings.words == "tokens":
            phrases, mask = phrase_leaves(tokens, members)
        else:
            phrases, mask = sum_phrases(tokens, members, self.settings.phrase_norm)
        return {"phrases": phrases, "mask": mask}

    def loss(self, features: Features, scales: Scalars, rng: PRNGKeyArray | None) -> Loss:
        """See `powerset_loss`. A pair without a region or without a phrase is no row and no negative."""
        own, settings, mining = features.own[self.name], self.settings, self._mining()
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
            mining=mining,
            offered=mining.offered(len(features.weight), scales["step"], rng),
            scale=scales[SCALE] if mining.loss == "softmax" else None,
            **self._chosen(How),
        )

    def scales(self) -> tuple[Scale, ...]:
        """One over the temperature of softmax, where that is the loss."""
        return (Scale(SCALE, math.log(START)),) if self.settings.loss == "softmax" else ()

    def _mining(self) -> Mining:
        return Mining(**self._chosen(Mining))

    def _chosen(self, kind) -> dict:
        """The settings that are fields of `kind`."""
        return {field.name: self.settings[field.name] for field in dataclasses.fields(kind)}

    def guest(self, features: Features) -> AnyArray:
        """Regions or phrases, whichever are fewer."""
        return search.traveller(features.regions, features.own[self.name]["phrases"])

    def flops(self, sizes: Sizes, hardware: bool = False) -> float:
        """Both sweeps; there is nothing that only the hardware sees."""
        drawn = self.settings.samples if self.settings.method == "sampled" else 0
        words = sizes.tokens if self.settings.words == "tokens" else sizes.phrases
        return matrix_products(sizes.batch, sizes.regions, words, sizes.width, drawn, self._mining().count)

    def pooled(self, sizes: Sizes) -> int:
        """Every token of the caption for every phrase; single tokens are not pooled."""
        return 0 if self.settings.words == "tokens" else sizes.phrases * sizes.tokens


def matrix_products(batch: int, regions: int, phrases: int, width: int, drawn: int, count: int = 1) -> int:
    """Operations of the matrix products of value and gradient: of the scores, and of the sums over drawn subsets."""
    a_pair = 2 * regions * phrases
    scores = search.matrix_products(batch, width * a_pair, count)
    return scores + search.evaluations(batch, count) * drawn * a_pair
