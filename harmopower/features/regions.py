"""Regions as linear maps over the patch grid (METHOD section 2)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from harmopower.arrays import AnyArray
from harmopower.features.vectors import normalise


def region_weights(
    boxes: Real[AnyArray, "*images M 4"],
    grid: tuple[int, int],
    mode: str,
    filled: Int[AnyArray, "*images 2"] | None = None,
) -> Float[Array, "*images M N"]:
    """The weight of every patch in every box, so that pooling regions is one matmul (METHOD section 2).

    Args:
      boxes: [..., M, 4] as y0, x0, y1, x1 in shares of the image, within 0..1.
      grid: rows and columns of patches; N = rows * columns, row by row.
      mode: "cover": 1 on every patch that the box touches (PowerCLIP); "overlap": the covered share of the patch;
        "roi_align": RoIAlign to one cell, `aligned=True`, adaptive sampling (Mask R-CNN as torchvision defines it).
      filled: int [..., 2], the first rows and columns that are not padding; None: all. Patches of padding have no
        weight, and RoIAlign takes what it finds on the map that ends where the padding begins.
    Returns:
      float32 [..., M, N]; all zero for a box without area.
    """
    if mode not in _AXIS_WEIGHTS:
        raise ValueError(f"objective.region_pooling is {mode!r}; choose one of {', '.join(_AXIS_WEIGHTS)}")
    boxes = jnp.asarray(boxes, jnp.float32)
    ends = grid if filled is None else (jnp.asarray(filled)[..., :1], jnp.asarray(filled)[..., 1:])
    # All three are products of a weight along the rows and one along the columns.
    along_rows, along_columns = (
        _AXIS_WEIGHTS[mode](boxes[..., axis] * size, boxes[..., axis + 2] * size, size, end)
        for axis, (size, end) in enumerate(zip(grid, ends, strict=True))
    )
    weights = along_rows[..., :, None] * along_columns[..., None, :]
    weights = jnp.where(has_area(boxes)[..., None, None], weights, 0)
    return weights.reshape(weights.shape[:-2] + (grid[0] * grid[1],))


def has_area(boxes: Real[AnyArray, "*boxes 4"]) -> Bool[AnyArray, "*boxes"]:
    """Whether boxes [..., 4] hold anything: bool [...]."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def _covered(start, end, size: int, last):
    """Length of each unit cell 0 .. last - 1 of size inside the interval: [...] -> [..., size]."""
    cell = jnp.arange(size, dtype=jnp.float32)
    end = jnp.minimum(end, last)  # also where rounding has put a box beyond its picture
    return jnp.clip(jnp.minimum(end[..., None], cell + 1) - jnp.maximum(start[..., None], cell), 0)


def _touched(start, end, size: int, last):
    return (_covered(start, end, size, last) > 0).astype(jnp.float32)


def _bilinear(start, end, size: int, last):
    """Mean over ceil(length) samples of the bilinear weights along one axis; a sample outside -1 .. last is lost."""
    length = end - start
    count = jnp.clip(jnp.ceil(length), 1, size)[..., None]
    sample = jnp.arange(size, dtype=jnp.float32)
    # Half a cell back: cell r has its value in its middle (`aligned=True`).
    position = start[..., None] - 0.5 + (sample + 0.5) * length[..., None] / count
    last = jnp.asarray(last)[..., None]
    inside = (sample < count) & (position >= -1) & (position <= last)
    position = jnp.clip(position, 0, last - 1)
    hat = jnp.clip(1 - jnp.abs(position[..., :, None] - sample), 0)
    return jnp.where(inside[..., None], hat, 0).sum(-2) / count


_AXIS_WEIGHTS = {"cover": _touched, "overlap": _covered, "roi_align": _bilinear}


def pool_regions(
    tokens: Float[AnyArray, "B N D"],
    boxes: Real[AnyArray, "B M 4"],
    box_valid: Bool[AnyArray, "B M"],
    grid: tuple[int, int],
    mode: str,
    kept: Int[AnyArray, "B N"] | None = None,
    filled: Int[AnyArray, "B 2"] | None = None,
) -> tuple[Float[Array, "B M D"], Bool[AnyArray, "B M"]]:
    """Region features from patch tokens.

    Args:
      tokens: [B, N, D] patch tokens in the shared space, not normalised.
      boxes: [B, M, 4] as y0, x0, y1, x1 in shares of the image.
      box_valid: bool [B, M].
      grid, mode, filled: see `region_weights`.
      kept: int32 [B, N], which patches of the grid the tokens are; None for all of them in order.
    Returns:
      phi [B, M, D] L2-normalised, 0 where there is no region, and the regions' mask bool [B, M]: valid, with area, and
      with a patch that is kept.
    """
    mask = box_valid & has_area(boxes)
    weights = region_weights(boxes, grid, mode, filled)
    if filled is not None:
        mask &= (weights > 0).any(-1)
    if kept is not None:
        weights = jnp.take_along_axis(weights, kept[:, None, :], axis=-1)
        mask &= (weights > 0).any(-1)
    weights = weights.astype(tokens.dtype)
    pooled = jnp.einsum("bmn,bnd->bmd", weights, tokens, preferred_element_type=jnp.float32)
    return normalise(pooled, mask).astype(tokens.dtype), mask
