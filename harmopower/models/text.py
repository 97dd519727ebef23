"""The text tower: a causal transformer with CLIP's exact shapes."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from harmopower.arrays import AnyArray
from harmopower.models import layers
from harmopower.models.presets import Tower
from harmopower.parallel import rules


class TextTower(nn.Module):
    """Token ids to text tokens in the shared space."""

    size: Tower
    shared: int
    vocabulary: int
    context_length: int
    eot_id: int
    pool: str  # "eos" | "mean"
    transformer: Mapping
    frozen_blocks: int = 0

    @nn.compact
    def __call__(self, ids: Int[AnyArray, "B T"]) -> tuple[Float[Array, "B D"], Float[Array, "B T D"]]:
        """Encodes ids `[B, T]`, T at most the context length: start token, text, end token, padding.

        Returns:
          pooled `[B, D]` and tokens `[B, T, D]`, after the final norm and projection.
        """
        width, dtype = self.size.width, self.transformer["dtype"]
        table = self.param("tokens", layers.normal(0.02, "vocabulary", "embed"), (self.vocabulary, width))
        position = self.param("position", layers.normal(0.01, "position", "embed"), (self.context_length, width))
        # Gathered whole before the look-up, as any sharded weight is before its product: left to itself, XLA looks up
        # in shards and moves the activations about.
        x = (rules.replicate(table)[ids] + position[: ids.shape[1]]).astype(dtype)
        x, _ = layers.Transformer(
            width,
            self.size.heads,
            self.size.layers,
            causal=True,
            frozen_blocks=self.frozen_blocks,
            name="transformer",
            **self.transformer,
        )(x)
        x = layers.layer_norm(self.transformer["epsilon"], dtype, "norm_final")(x)
        projection = self.param("projection", layers.normal(width**-0.5, "embed", "shared"), (width, self.shared))
        tokens = x @ projection.astype(dtype)
        return self._pool(tokens, ids), tokens

    def _pool(self, tokens, ids):
        end = jnp.argmax(ids == self.eot_id, axis=1)  # the first end token: padding may repeat its id
        if self.pool == "eos":
            return jnp.take_along_axis(tokens, end[:, None, None], axis=1)[:, 0]
        place = jnp.arange(ids.shape[1])
        real = ((place > 0) & (place <= end[:, None])).astype(tokens.dtype)
        # A row without an end token (an empty one) pools to zero instead of dividing by zero.
        return jnp.einsum("bt,btd->bd", real, tokens) / jnp.maximum(real.sum(1, keepdims=True), 1)
