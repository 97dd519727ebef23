"""The image tower: a vision transformer with CLIP's exact shapes."""

from collections.abc import Mapping
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray, Real, UInt8

from harmopower.arrays import AnyArray
from harmopower.models import layers
from harmopower.models.presets import Tower


@functools.partial(nn.with_logical_partitioning, names=("position", "embed"))
def _init_position(key, grid: tuple[int, int], width: int, start: str):
    """Learnable positions start from 2-D sines and cosines (Beyer et al. 2022, arXiv 2205.01580), or as CLIP's do.

    Small noise leaves neighbours unknown at first, and shapes that cross patches are learned late.
    """
    if start == "noise":
        return width**-0.5 * jax.random.normal(key, (1 + grid[0] * grid[1], width))
    frequency = 10_000.0 ** -jnp.linspace(0, 1, width // 4)
    row, column = (place.reshape(-1, 1) * frequency for place in jnp.mgrid[: grid[0], : grid[1]])
    table = jnp.concatenate([jnp.sin(column), jnp.cos(column), jnp.sin(row), jnp.cos(row)], axis=1)
    return jnp.pad(table, ((1, 0), (0, width - table.shape[1])))  # the class token has no place


class VisionTower(nn.Module):
    """Image pixels to patch tokens in the shared space."""

    size: Tower
    shared: int
    patch_size: int
    grid: tuple[int, int]
    pool: str  # "cls" | "mean"
    dense: str  # "full" | "value"
    transformer: Mapping
    frozen_blocks: int = 0
    position_init: str = "sincos"  # "sincos" | "noise"

    @nn.compact
    def __call__(
        self,
        images: Float[AnyArray, "B H W 3"],
        kept: Int[AnyArray, "B N"] | None = None,
        filled: Int[AnyArray, "B 2"] | None = None,
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N D"]]:
        """Encodes normalised images `[B, H, W, 3]`.

        Args:
          kept: int32 `[B, N]`, the patches of each image that are computed at all (`draw_patches`); None for all.
          filled: int32 `[B, 2]`, rows and columns of patches that are not padding; None for all.

        Returns:
          pooled `[B, D]` and patch tokens `[B, N, D]`, in the order of `kept` or else row-major over the grid, after
          the final norm and projection.
        """
        width, dtype = self.size.width, self.transformer["dtype"]
        x = self._tokens(images.astype(dtype), kept)
        x = layers.layer_norm(self.transformer["epsilon"], dtype, "norm_pre")(x)
        x, value = layers.Transformer(
            width,
            self.size.heads,
            self.size.layers,
            causal=False,
            frozen_blocks=self.frozen_blocks,
            name="transformer",
            **self.transformer,
        )(x, value_tokens=self.dense == "value")
        norm = layers.layer_norm(self.transformer["epsilon"], dtype, "norm_post")
        projection = self.param("projection", layers.normal(width**-0.5, "embed", "shared"), (width, self.shared))
        project = lambda tokens: norm(tokens) @ projection.astype(dtype)
        tokens = project(x)
        self.sow("intermediates", "full", tokens[:, 1:])  # for who reads both `dense` ways of one pass; else not kept
        pooled = tokens[:, 0] if self.pool == "cls" else self._mean(tokens[:, 1:], kept, filled)
        return pooled, (tokens if value is None else project(value))[:, 1:]

    def _mean(self, tokens, kept, filled):
        if filled is None:
            return tokens.mean(axis=1)
        real = filled_cells(filled, self.grid).reshape(len(tokens), -1)
        real = real if kept is None else jnp.take_along_axis(real, kept, axis=1)
        count = jnp.maximum(real.sum(axis=1, keepdims=True), 1)  # of a bad record, without content, not 0 / 0
        return (jnp.where(real[..., None], tokens, 0).sum(axis=1) / count).astype(tokens.dtype)

    def _tokens(self, images, kept):
        """The kept patches through one matrix (a strided convolution), class token first, positions added."""
        batch, (rows, columns), patch, width = images.shape[0], self.grid, self.patch_size, self.size.width
        # The standard deviation of PyTorch's own initialiser of a convolution, which CLIP trains from.
        kernel = self.param(
            "patch_kernel", layers.normal((9 * patch**2) ** -0.5, "patch", "embed"), (patch * patch * 3, width)
        )
        scale = width**-0.5
        class_token = self.param("class_token", layers.normal(scale, "norm"), (width,))
        position = self.param("position", _init_position, self.grid, width, self.position_init)
        patches = (
            images.reshape(batch, rows, patch, columns, patch, 3).swapaxes(2, 3).reshape(batch, rows * columns, -1)
        )
        places = position[1:]
        if kept is not None:
            # Before the first product: what is dropped costs nothing, and pixels need no gradient of the gathering.
            patches, places = jnp.take_along_axis(patches, kept[..., None], axis=1), places[kept]
        tokens = patches @ kernel.astype(images.dtype) + places.astype(images.dtype)
        first = (class_token + position[0]).astype(tokens.dtype)
        return jnp.concatenate([jnp.broadcast_to(first, (batch, 1, width)), tokens], axis=1)


def filled_cells(filled: Int[AnyArray, "B 2"], grid: tuple[int, int]) -> Bool[Array, "B rows columns"]:
    """Which cells of a grid lie in its first rows and columns, so many for each image."""
    rows, columns = (jnp.arange(size) < jnp.asarray(filled)[:, axis, None] for axis, size in enumerate(grid))
    return rows[:, :, None] & columns[:, None, :]


def resample_position(
    position: Float[AnyArray, "old width"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "new width"]:
    """Resamples positions `[1 + rows * columns, width]` of an old grid of patches to a new one, the class token's kept.

    Bicubic (Keys, a = -0.5) with antialiasing, as OpenCLIP does. Those of the same grid come back as they are.
    """
    if old == new:
        return jnp.asarray(position)
    width = position.shape[1]
    patches = jax.image.resize(position[1:].reshape(*old, width), (*new, width), "cubic", antialias=True)
    return jnp.concatenate([position[:1], patches.reshape(-1, width)])


def kept_patches(grid: tuple[int, int], dropout: float) -> int:
    """How many patches of an image are kept: the same number in all, at least one."""
    return max(1, round(grid[0] * grid[1] * (1 - dropout)))


def draw_patches(
    key: PRNGKeyArray, rows: int, grid: tuple[int, int], dropout: float, filled: Int[AnyArray, "B 2"] | None = None
) -> Int32[Array, "B kept"]:
    """Draws the patches that each image keeps (FLIP, Li et al. 2023, arXiv 2212.00794).

    Patches that are padding alone are dropped first: what is left of a letterboxed image is picture (our choice).

    Args:
      key: of the step.
      rows: B, images of the global batch. The draw of a row follows from the key and the row's number alone, so neither
        devices nor slices change it.
      dropout: share of the patches that is dropped.
      filled: int32 `[B, 2]`, rows and columns of patches that are not padding; None for all.

    Returns:
      int32 `[B, kept_patches]`, ascending.
    """

    def draw(row, padding):
        drawn = jax.random.uniform(jax.random.fold_in(key, row), (grid[0] * grid[1],))
        return jnp.sort(jnp.argsort(drawn + padding)[: kept_patches(grid, dropout)])

    padding = jnp.zeros((rows, 1)) if filled is None else ~filled_cells(filled, grid).reshape(rows, -1)
    return jax.vmap(draw)(jnp.arange(rows), padding).astype(jnp.int32)


def crop_boxes(
    images: UInt8[AnyArray, "B H W 3"], boxes: Real[AnyArray, "B M 4"], enlargement: float, side: int = 0
) -> Float[Array, "B M height width 3"]:
    """Cuts out each box, enlarged about its centre, and resizes it (bilinear, antialiased).

    Args:
      images: uint8 `[B, H, W, 3]`.
      boxes: `[B, M, 4]` as y0, x0, y1, x1 in shares of the image; one without area gives an arbitrary crop.
      side: of the crops, in pixels; 0: they have the size of the images.

    Returns:
      float32 `[B, M, height, width, 3]`, pixels in 0..1; black where the enlarged box leaves the image.
    """
    shape = (side, side, 3) if side else images.shape[1:]
    old, new = (jnp.array(sizes[:2], jnp.float32) for sizes in (images.shape[1:], shape))

    def crop(image, box):
        extent = jnp.maximum(box[2:] - box[:2], 1e-3) * enlargement
        start = (box[:2] + box[2:] - extent) / 2
        # An input pixel p lands on p * (new / old) / extent - start * new / extent.
        scale, shift = new / old / extent, -start * new / extent
        return jax.image.scale_and_translate(
            image.astype(jnp.float32) / 255, shape, (0, 1), scale, shift, method="linear"
        )

    return jax.vmap(jax.vmap(crop, (None, 0)))(images, boxes)
