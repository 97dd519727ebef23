"""The pre-LN transformer that both towers share; every parameter carries its logical axis names (parallel/rules.py)."""

from collections.abc import Callable
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from harmopower.parallel import rules

ACTIVATIONS: dict[str, Callable] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
REMAT_POLICIES = {"dots": jax.checkpoint_policies.checkpoint_dots, "full": jax.checkpoint_policies.nothing_saveable}


def normal(stddev: float, *axes: str) -> Callable:
    """Normal initialiser of a parameter whose axes have these logical names."""
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)


def zeros(*axes: str) -> Callable:
    """Zero initialiser of a parameter whose axes have these logical names."""
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


def layer_norm(epsilon: float, dtype: DTypeLike, name: str) -> nn.LayerNorm:
    """LayerNorm with logical axis names; its statistics are computed in float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        name=name,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
        bias_init=zeros("norm"),
    )


class Block(nn.Module):
    """One residual block: attention, then MLP, each behind its LayerNorm."""

    width: int
    heads: int
    layers: int  # depth of the whole tower, which scales the initial residual branches as in CLIP
    causal: bool
    activation: str
    attention: Literal["xla", "cudnn"]
    epsilon: float
    dtype: jnp.dtype

    def setup(self) -> None:
        branch = self.width**-0.5 * (2 * self.layers) ** -0.5
        head_dim = self.width // self.heads
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype)
        self.norm_1 = layer_norm(self.epsilon, self.dtype, "norm_1")
        self.qkv = dense(
            (3, self.heads, head_dim),
            kernel_init=normal(self.width**-0.5, "embed", "qkv", "heads", "head_dim"),
            bias_init=zeros("qkv", "heads", "head_dim"),
        )
        self.out = dense(
            self.width, axis=(-2, -1), kernel_init=normal(branch, "heads", "head_dim", "embed"), bias_init=zeros("norm")
        )
        self.norm_2 = layer_norm(self.epsilon, self.dtype, "norm_2")
        self.mlp_in = dense(
            4 * self.width, kernel_init=normal((2 * self.width) ** -0.5, "embed", "mlp"), bias_init=zeros("mlp")
        )
        self.mlp_out = dense(self.width, kernel_init=normal(branch, "mlp", "embed"), bias_init=zeros("norm"))

    def __call__(self, x: Float[Array, "B N width"]) -> Float[Array, "B N width"]:
        """Maps tokens `[B, N, width]` to tokens of the same shape."""
        x = rules.constrain(x)
        query, key, value = jnp.moveaxis(self.qkv(self.norm_1(x)), -3, 0)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal, implementation=self.attention)
        return self._mlp(x + self.out(mixed))

    def value_path(self, x: Float[Array, "B N width"]) -> Float[Array, "B N width"]:
        """The block without attention between tokens: each token reads its own value (CLIPSelf, FG-CLIP)."""
        return self._mlp(x + self.out(self.qkv(self.norm_1(x))[..., 2, :, :]))

    def _mlp(self, x):
        return x + self.mlp_out(ACTIVATIONS[self.activation](self.mlp_in(self.norm_2(x))))


class Transformer(nn.Module):
    """A stack of blocks run by `lax.scan`: one compiled block, parameters stacked along a leading `layers` axis."""

    width: int
    heads: int
    layers: int
    causal: bool
    activation: str
    attention: Literal["xla", "cudnn"]
    epsilon: float
    dtype: jnp.dtype
    remat: str
    scan_unroll: int
    frozen_blocks: int = 0  # so many first blocks are run apart, so that their weights' gradient is never computed

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N width"], value_tokens: bool = False
    ) -> tuple[Float[Array, "B N width"], Float[Array, "B N width"] | None]:
        """Runs the stack on tokens `[B, N, width]`.

        Returns:
          the tokens after the last block, and the same read through the last block's value path (None unless
          `value_tokens`), both `[B, N, width]`.
        """
        if self.frozen_blocks and not self.is_initializing():
            x, before = self._in_two_parts(x, value_tokens)
            return x, self._last_value_path(before) if value_tokens else None
        block = self._block_class()(**self._block_arguments(), name="blocks")
        (x, before), _ = nn.scan(
            lambda layer, carry, _: ((layer(carry[0]), carry[0] if value_tokens else None), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=min(self.scan_unroll, self.layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(block, (x, x if value_tokens else None), None)
        return x, self._last_value_path(before) if value_tokens else None

    def _in_two_parts(self, x, value_tokens: bool) -> Any:  # as `_last_value_path`
        """The same by two scans, the first one over blocks that are constants to the gradient."""
        block = self._block_class()(**self._block_arguments(), parent=None)
        stacked = nn.unbox(self.variables["params"]["blocks"])

        def run(carry, params):
            return (block.apply({"params": params}, carry[0]), carry[0] if value_tokens else None), None

        frozen = jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf[: self.frozen_blocks]), stacked)
        carry = x, (x if value_tokens else None)
        for part in (frozen, jax.tree.map(lambda leaf: leaf[self.frozen_blocks :], stacked)):
            depth = len(jax.tree.leaves(part)[0])
            carry, _ = jax.lax.scan(run, carry, part, unroll=min(self.scan_unroll, depth))
        return carry

    def _block_class(self):
        if self.remat == "none":
            return Block
        # prevent_cse is needless inside a scan and would hinder fusion.
        return nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)

    def _block_arguments(self) -> dict:
        names = ("width", "heads", "layers", "causal", "activation", "attention", "epsilon", "dtype")
        return {name: getattr(self, name) for name in names}

    def _last_value_path(self, x) -> Any:  # what `apply` gives depends on its arguments
        last = jax.tree.map(lambda leaf: leaf[-1], nn.unbox(self.variables["params"]["blocks"]))
        return Block(**self._block_arguments(), parent=None).apply({"params": last}, x, method="value_path")
