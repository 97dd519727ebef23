"""Phrases and lexemes: linear maps over the tokens of a caption (METHOD section 3)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from harmopower.arrays import AnyArray
from harmopower.features.vectors import normalise


def sum_phrases(
    tokens: Float[AnyArray, "B T D"], phrases: Bool[AnyArray, "B K T"], phrase_norm: str
) -> tuple[Float[Array, "B K D"], Bool[AnyArray, "B K"]]:
    """Powerset phrases: the sum of the L2-normalised token embeddings (METHOD section 3).

    Args:
      tokens: [B, T, D] text tokens, not normalised.
      phrases: bool [B, K, T]. Those of fewer than 2 tokens are no constituents: they travel as lexemes only.
      phrase_norm: "sum", or "unit" to L2-normalise the sum.
    Returns:
      phrases [B, K, D] in the type of the tokens, and their mask bool [B, K].
    """
    mask = phrases.sum(-1) >= 2
    members = (phrases & mask[..., None]).astype(tokens.dtype)
    leaves = normalise(tokens).astype(tokens.dtype)
    summed = jnp.einsum("bkt,btd->bkd", members, leaves, preferred_element_type=jnp.float32)
    if phrase_norm == "unit":
        summed = normalise(summed)
    return summed.astype(tokens.dtype), mask


def phrase_leaves(
    tokens: Float[AnyArray, "B T D"], phrases: Bool[AnyArray, "B K T"]
) -> tuple[Float[Array, "B T D"], Bool[AnyArray, "B T"]]:
    """Powerset phrases of one leaf each: the L2-normalised tokens [B, T, D], and bool [B, T], those in a phrase of
    `sum_phrases`, so that an ablation without sums sees the same words."""
    mask = jnp.any(phrases & (phrases.sum(-1, keepdims=True) >= 2), axis=1)
    return normalise(tokens).astype(tokens.dtype), mask


def pool_lexemes(
    tokens: Float[AnyArray, "B T D"],
    phrases: Bool[AnyArray, "B K T"],
    box_phrase: Int[AnyArray, "B M"],
    region_text_tokens: Float[AnyArray, "B R S D"] | None = None,
    region_text_content: Bool[AnyArray, "B R S"] | None = None,
) -> tuple[Float[Array, "B M D"], Bool[AnyArray, "B M"]]:
    """Lexemes: the L2-normalised mean of the tokens of a region's phrase, or of its own text where it has no phrase.

    Args:
      tokens: [B, T, D]; phrases: bool [B, K, T]; box_phrase: int32 [B, M], index into phrases, -1 for none.
      region_text_tokens, region_text_content: [B, R, S, D] of the own texts of the first R regions, and bool [B, R, S],
        which of them are content.
    Returns:
      lexemes [B, M, D] in the type of the tokens, and bool [B, M]: which regions have one.
    """
    span = jnp.take_along_axis(phrases, jnp.maximum(box_phrase, 0)[..., None], axis=1) & (box_phrase >= 0)[..., None]
    # The mean and the sum differ by a factor that the normalisation removes.
    summed = jnp.einsum("bmt,btd->bmd", span.astype(tokens.dtype), tokens, preferred_element_type=jnp.float32)
    mask = span.any(-1)
    if region_text_tokens is not None and region_text_content is not None:
        content = region_text_content.astype(tokens.dtype)
        own = jnp.einsum("brs,brsd->brd", content, region_text_tokens, preferred_element_type=jnp.float32)
        without_text = ((0, 0), (0, mask.shape[1] - content.shape[1]))
        summed = jnp.where(mask[..., None], summed, jnp.pad(own, (*without_text, (0, 0))))
        mask |= jnp.pad(region_text_content.any(-1), without_text)
    return normalise(summed, mask).astype(tokens.dtype), mask
