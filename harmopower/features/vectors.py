"""Unit vectors, in which everything is compared."""

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from harmopower.arrays import AnyArray


def normalise(
    vectors: Float[AnyArray, "*rows D"], mask: Bool[AnyArray, "*rows"] | None = None
) -> Float[Array, "*rows D"]:
    """L2-normalises [..., D] in float32; a zero vector, or one outside mask [...], becomes 0 with gradient 0."""
    vectors = jnp.asarray(vectors, jnp.float32)
    if mask is not None:
        vectors = jnp.where(mask[..., None], vectors, 0)
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    positive = square > 1e-30
    # The inner `where` keeps the infinite derivative of the root at 0 out of the backward pass.
    return vectors * jnp.where(positive, lax.rsqrt(jnp.where(positive, square, 1)), 0)
