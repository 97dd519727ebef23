"""Region features that protocols ask for beside the model's own: at other sizes, pooled and read in several ways.

An image size that is not the model's resamples its positions (`models.vision.resample_position`). A larger image takes
as many at once as keep the memory of attention at what a batch of the model's own size needs.
"""

from collections.abc import Iterator, Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from harmopower.data.transforms import Shape
from harmopower.evaluation.encoder import Encoder, pad_boxes, whole
from harmopower.evaluation.preparing import Row
from harmopower.evaluation.suite import NO_BOXES, Look, Seen
from harmopower.features import regions as region_features
from harmopower.features.vectors import normalise
from harmopower.models.vision import resample_position
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules

_NOTHING = Row(-1, None)


def encode(encoder: Encoder, rows: Sequence[Row], name: str, look: Look) -> dict[str, np.ndarray]:
    """Feature -> [all boxes of a global batch, in the order of their examples, D], L2-normalised.

    Args:
      rows: this process's share of the batch; every process calls this with its own.
      name: of the look, under which the examples have what it sees.
    """
    pooled = tuple(feature for feature in look.features if feature != "crop")
    found: dict[int, dict[str, np.ndarray]] = {}  # by the number of the example
    for part in _slices(encoder, rows, look.shape) if pooled else ():
        found |= _pooled(encoder, part, name, look, pooled)
    if "crop" in look.features:
        for index, vectors in _crops(encoder, rows, name).items():
            found.setdefault(index, {})["crop"] = vectors
    return joined([found[index] for index in sorted(found)], look)


def joined(parts: Sequence[dict[str, np.ndarray]], look: Look) -> dict[str, np.ndarray]:
    """The features of several batches or examples behind one another."""
    nothing = np.zeros((0, 0), np.float32)
    some = [part for part in parts if len(part[look.features[0]])]
    return {feature: np.concatenate([part[feature] for part in some] or [nothing]) for feature in look.features}


def _slices(encoder: Encoder, rows: Sequence[Row], shape: Shape) -> Iterator[list[Row]]:
    """As many of this process's rows at once as the memory takes; on every process equally many."""
    shards = max(1, meshes.batch_shards(jax.sharding.get_abstract_mesh()) // jax.process_count())
    # Attention is quadratic in the number of patches.
    larger = max(1.0, (math.prod(shape) / math.prod(encoder.view.shape)) ** 2)
    size = max(shards, int(len(rows) / larger) // shards * shards)
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        yield part + [_NOTHING] * (size - len(part))


def _pooled(encoder: Encoder, rows: Sequence[Row], name: str, look: Look, features: tuple[str, ...]):
    seen = [row.prepared.seen[name] if row.prepared else None for row in rows]
    own = [[row.index if each else -1, len(each.boxes) if each else 0] for row, each in zip(rows, seen, strict=True)]
    numbers = encoder.everywhere(np.array(own, np.int32))
    blank = np.zeros((*look.shape, 3), np.uint8)
    images = encoder.spread(np.stack([each.image if each else blank for each in seen]))
    boxes, valid = pad_boxes([each.boxes if each else NO_BOXES for each in seen], int(numbers[:, 1].max()))
    model = encoder.model.clone(image_size=look.shape[0], image_width=look.shape[1])
    wanted = any(feature.startswith("mask_") for feature in features)
    masks = _pad_masks(seen, valid.shape[1], model.grid[0] * model.grid[1] if wanted else 0)
    tokens = _tokens(model, encoder.params, images, _dense(features), encoder.model.grid)
    vectors = _regions(tokens, *map(encoder.spread, (boxes, valid, masks)), model.grid, features, look.unit_tokens)
    vectors = {feature: np.asarray(value) for feature, value in vectors.items()}
    return {
        int(index): {feature: value[row, :count] for feature, value in vectors.items()}
        for row, (index, count) in enumerate(numbers)
        if index >= 0
    }


def _dense(features: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(feature.rpartition("_")[2] for feature in features))


def _pad_masks(seen: Sequence[Seen | None], most: int, patches: int) -> np.ndarray:
    """bool [rows, most, patches]; 0 patches where no feature reads masks."""
    padded = np.zeros((len(seen), most, patches), bool)
    for row, each in enumerate(seen):
        if patches and each:
            padded[row, : len(each.boxes)] = each.masks
    return padded


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _tokens(model, params, images, dense: tuple[str, ...], grid: tuple[int, int]):
    """Patch tokens [B, N, D] for each way of reading them, from one pass; `grid` is that of the parameters."""
    position = resample_position(params["vision"]["position"], grid, model.grid)
    params = params | {"vision": params["vision"] | {"position": position}}
    model = model.clone(dense="value" if "value" in dense else "full")
    encoded, kept = model.apply(
        {"params": params}, rules.constrain(images), method="encode_image", mutable=["intermediates"]
    )
    return {"value": encoded.tokens, "full": kept["intermediates"]["vision"]["full"][0]}


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _regions(tokens, boxes, valid, masks, grid, features: tuple[str, ...], unit_tokens: bool):
    found = {}
    for feature in features:
        mode, _, dense = feature.rpartition("_")
        own = normalise(tokens[dense]) if unit_tokens else tokens[dense].astype("float32")
        if mode == "mask":
            found[feature] = whole(normalise(jnp.einsum("bmn,bnd->bmd", masks.astype("float32"), own), valid))
        else:
            found[feature] = whole(region_features.pool_regions(own, boxes, valid, grid, mode)[0])
    return found


def _crops(encoder: Encoder, rows: Sequence[Row], name: str) -> dict[int, np.ndarray]:
    """Number of an example -> [its boxes, D], each cut-out as an image of its own."""
    own = [
        (row.index, place, crop)
        for row in rows
        if row.prepared
        for place, crop in enumerate(row.prepared.seen[name].crops)
    ]
    size, blank = encoder.share.count, np.zeros((*encoder.view.shape, 3), np.uint8)
    there = np.array([[row.index if row.prepared else -1, len(own)] for row in rows], np.int32)
    indices, counts = encoder.everywhere(there).T
    found: dict[int, dict[int, np.ndarray]] = {int(index): {} for index in indices if index >= 0}
    for start in range(0, int(counts.max()), size):
        part = own[start : start + size]
        part += [(-1, 0, blank)] * (size - len(part))
        numbers = encoder.everywhere(np.array([[index, place] for index, place, _ in part], np.int32))
        vectors = encoder.encode_pixels(np.stack([crop for *_, crop in part]))
        for (index, place), vector in zip(numbers, vectors, strict=True):
            if index >= 0:
                found[int(index)][int(place)] = vector
    return {index: np.array([own[place] for place in sorted(own)]) for index, own in found.items()}
