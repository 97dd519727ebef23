"""What regions learn from where `objective.global_region.mode` is `crop`: the embeddings of their crops, by a teacher.

The teacher is the model as it is (`self`), its moving average (`ema`, which `optimizer.ema` keeps), or the model that
the run starts from (`start`: CLIPSelf, Wu et al. 2024, arXiv 2310.01403). None of them gets a gradient.

The starting model is kept in the state and in every checkpoint, not read again from `config.init`: so a run goes on to
the bit where that folder is gone, changed, or on another machine. It is the image tower alone, all that crops need,
sharded as the parameters are; of CLIP's towers that is a bit more than half of one copy.

Crops are encoded chunk by chunk, `objective.global_region.crop_chunk` of each image at a time, so that the memory they
take is that of one chunk, forward only, however many boxes an image has. Chunks go along the boxes, not the images:
every device keeps its own rows. They may be smaller than the image, `objective.global_region.crop_size`: CLIPSelf's
teacher sees 224 pixels, the size it was trained at, where the image has 1024. Its positions for a smaller grid are
those whose resampling to the image's grid comes nearest to what is there (least squares, our choice). So what
`config.init` had at that size comes back but for rounding; resampling down again would blur it.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from harmopower.errors import ConfigError
from harmopower.models import presets, vision
from harmopower.models.clip import CLIP
from harmopower.objectives import total

ENLARGEMENT = 1.5  # of a box, about its centre; METHOD section 5, CLIPSelf and FineCLIP
EMA, START = "ema", "start"  # values of `objective.global_region.teacher` for which the state holds the tower
TOWER = "vision"


def kept(config: ConfigDict) -> dict[str, bool]:
    """What the state holds beside parameters and optimizer state: the arguments `ema` and `start` of state.py."""
    return {EMA: config.optimizer.ema > 0, START: total.active(config.objective).teacher == START}


def of(config: ConfigDict, state):
    """The parameters whose image tower encodes crops; None: those that are being trained."""
    return {EMA: state.ema, START: state.start}.get(total.active(config.objective).teacher)


def without_gradient(params, teacher):
    """Parameters of the model, its image tower the teacher's, as constants to the gradient.

    Args:
      params: those that are being trained; a model is applied to a whole tree, of which only the tower is read here.
      teacher: what `of` gives.
    """
    return jax.lax.stop_gradient({**params, TOWER: (teacher or params)[TOWER]})


def at_side(model: CLIP, params, side: int):
    """The model and parameters that encode images of that side, positions resampled; 0: those of the run's images."""
    if not side or (side, side) == model.shape:
        return model, params
    smaller, tower = model.clone(image_size=side, image_width=0), params[TOWER]
    position = _positions(tower["position"], model.grid, smaller.grid)
    return smaller, {**params, TOWER: {**tower, "position": position}}


def _positions(position, old: tuple[int, int], new: tuple[int, int]):
    """Positions `[1 + rows * columns, width]` of a grid for another one, see above; a finer one is resampled to."""
    if old[0] < new[0] or old[1] < new[1]:
        return vision.resample_position(position, old, new)
    rows, columns = (_back(fine, coarse) for fine, coarse in zip(old, new, strict=True))
    patches = position[1:].reshape(*old, -1)
    patches = jnp.einsum("ar,bc,rcw->abw", rows, columns, patches, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([position[:1], patches.reshape(-1, position.shape[1])])


@functools.cache
def _back(fine: int, coarse: int) -> np.ndarray:
    """What undoes resampling along one axis: float32 `[coarse, fine]`."""
    with jax.ensure_compile_time_eval():
        there = vision.resample_position(jnp.eye(coarse + 1)[:, 1:], (coarse, 1), (fine, 1))[1:]
    return np.linalg.pinv(np.asarray(there, np.float64)).astype(np.float32)


def check(config: ConfigDict) -> None:
    """Raises ConfigError where `crop_size` is no multiple of the patch size."""
    side, patch_size = config.objective.global_region.crop_size, presets.get(config.model.preset).patch_size
    if side % patch_size:
        raise ConfigError(
            f"config.objective.global_region.crop_size {side} is no multiple of the patch size {patch_size} of "
            f"config.model.preset {config.model.preset}"
        )


def crop_rows(data: ConfigDict) -> int:
    """C, how many of an image's regions have their crops encoded, the first ones."""
    return min(data.max_region_crops or data.max_boxes, data.max_boxes)


def encode_crops(encode: Callable, images, boxes, chunk: int, side: int = 0, ends=1) -> jax.Array:
    """The embeddings `[B, C, D]` of the enlarged boxes.

    Args:
      encode: gives embeddings `[b, D]` of images `[b, H, W, 3]`.
      images: uint8 `[B, H, W, 3]`.
      boxes: `[B, C, 4]` as y0, x0, y1, x1 in shares of the image; of one without area the embedding is arbitrary.
      chunk: boxes of each image that are encoded at once; 0 for all. The last chunk is filled up with empty boxes.
      side: of the crops, in pixels; 0: that of the images.
      ends: `[B, 2]`, where the picture ends and padding begins, down and across, in shares of the image; 1: nowhere.
    """
    rows, count, _ = boxes.shape
    size = min(chunk or count, count)
    filled = jnp.pad(enlarged(boxes, ends), ((0, 0), (0, -count % size), (0, 0)))
    chunks = jnp.moveaxis(filled.reshape(rows, -1, size, 4), 1, 0)

    def encode_chunk(boxes):
        crops = vision.crop_boxes(images, boxes, 1.0, side)
        return encode(crops.reshape(-1, *crops.shape[2:])).reshape(rows, size, -1)

    found = jax.lax.map(encode_chunk, chunks)
    return jnp.moveaxis(found, 0, 1).reshape(rows, -1, found.shape[-1])[:, :count]


def enlarged(boxes, ends=1) -> jax.Array:
    """The boxes `[B, C, 4]` enlarged about their centres, cut at the picture's edge as CLIPSelf and FineCLIP cut them.

    `ends`: see `encode_crops`.
    """
    boxes = jnp.asarray(boxes, jnp.float32)
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, ENLARGEMENT / 2 * (boxes[..., 2:] - boxes[..., :2])
    edges = jnp.broadcast_to(jnp.asarray(ends, jnp.float32), (boxes.shape[0], 2))
    return jnp.clip(jnp.concatenate([centre - half, centre + half], axis=-1), 0, jnp.tile(edges, 2)[:, None])
