"""Embeddings of images, regions and texts for evaluation: jitted once, in batches of one shape, on all devices."""

from collections.abc import Sequence
import functools
import hashlib
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec
import numpy as np

from harmopower.data import transforms
from harmopower.evaluation.preparing import Row, Share
from harmopower.evaluation.suite import NO_BOXES, View
from harmopower.features import regions as region_features
from harmopower.features.vectors import normalise
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules


class Encoded(NamedTuple):
    """The usable examples of a global batch, of all processes, in the order of their numbers; L2-normalised."""

    indices: np.ndarray  # int [n]
    images: np.ndarray  # [n, D]
    regions: np.ndarray  # [all boxes of all n examples in order, D]


class Encoder:
    """A model with its parameters, as functions from images and texts to unit vectors.

        encoder = Encoder(model, params, tokenizer, image_size=64, context_length=24, batch_size=256)
        texts = encoder.encode_texts(["a red circle", "a blue square"])                  # [2, D]

    Compiled code is kept between encoders of equal models, so an evaluation in the middle of training compiles only the
    first time. Parameters may lie on a mesh: enter it with `jax.set_mesh`, and batches are spread over its devices.
    Several processes must call the same functions in the same order: each gives its own rows of a batch of images and
    the same texts as all others, and gets all results.

    Attributes:
      view: how images are prepared for this model.
      share: which rows of each batch this process prepares.
      model, params: as given.
    """

    def __init__(
        self,
        model,
        params,
        tokenizer,
        image_size: int,
        context_length: int,
        batch_size: int,
        *,
        region_pooling: str = "cover",
        resize_mode: str = "squash",
        image_width: int = 0,
    ):
        """Sets up; compiles at first use.

        Args:
          model, params: the Flax model and its parameters, unboxed.
          tokenizer: `harmopower.data.tokenize.Tokenizer`.
          image_size, context_length, region_pooling, resize_mode, image_width: as in training.
          batch_size: images or texts a pass, of all devices; rounded up so that it divides over the mesh.
        """
        shards = meshes.batch_shards(jax.sharding.get_abstract_mesh())
        batch_size = -(-batch_size // shards) * shards
        rows = batch_size // jax.process_count()
        self.view = View(image_size, resize_mode, image_width)
        self.share = Share(jax.process_index() * rows, rows, batch_size)
        self.model, self.params, self._tokenizer = model, params, tokenizer
        self._context_length, self._region_pooling = context_length, region_pooling

    @functools.cached_property
    def identity(self) -> str:
        """Equal for equal weights that see and compute alike: what a result or an embedding of this model hangs on."""
        how = (repr(self.model), self._tokenizer.digest, self.view, self._context_length, self._region_pooling)
        weights = np.asarray(_digest(self.params))
        return hashlib.sha256(repr(how).encode() + weights.tobytes()).hexdigest()

    def encode_images(self, rows: Sequence[Row]) -> Encoded:
        """Images and their regions, from one pass.

        Args:
          rows: this process's share of a batch; those without an example or with one that cannot be used are left out
            of the result.
        """
        boxes = [row.prepared.boxes if row.prepared else NO_BOXES for row in rows]
        own = [[row.index if row.prepared else -1, len(own)] for row, own in zip(rows, boxes, strict=True)]
        # The numbers travel as the images do, so that it does not matter which process holds which rows.
        indices, counts = self.everywhere(np.array(own, np.int32)).T
        images, content = self._framed(rows)
        pooled, tokens = _image_features(self.model, self.params, self.spread(images), content)
        regions = self._encode_regions(tokens, boxes, int(counts.max(initial=0)), content)
        order = [row for row in np.argsort(indices, kind="stable") if indices[row] >= 0]
        return Encoded(
            indices[order],
            np.asarray(pooled)[order],
            np.concatenate([regions[:0, 0], *(regions[row, : counts[row]] for row in order)]),
        )

    def _framed(self, rows: Sequence[Row]):
        """The images with their padding, and what is none of it: [rows, 2], None where no image has any."""
        blank = np.zeros((*self.view.shape, 3), np.uint8)
        own = [row.prepared.image if row.prepared else blank for row in rows]
        images = np.stack([transforms.padded(image, self.view.shape) for image in own])
        if self.view.resize_mode != "letterbox":
            return images, None
        return images, self.spread(np.array([image.shape[:2] for image in own], np.int32))

    def _encode_regions(self, tokens, boxes: list[np.ndarray], most: int, content) -> np.ndarray:
        """[B, M, D], M at least the `most` boxes that an image of any process has."""
        # A pass of its own: the number of boxes varies, and only this small function compiles anew for it.
        padded, valid = map(self.spread, pad_boxes(boxes, most))
        filled = None if content is None else self.model.filled(content)
        return np.asarray(_region_features(tokens, padded, valid, filled, self.model.grid, self._region_pooling))

    def encode_pixels(self, images: np.ndarray) -> np.ndarray:
        """This process's part uint8 [rows, H, W, 3] of a batch -> [all rows, D], L2-normalised."""
        return np.asarray(_image_features(self.model, self.params, self.spread(images))[0])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts [n, D], L2-normalised; what exceeds the context length is cut."""
        size = self.share.batch_size
        return np.concatenate(
            [self._encode_text_batch(texts[start : start + size]) for start in range(0, len(texts), size)]
        )

    def _encode_text_batch(self, batch: Sequence[str]) -> np.ndarray:
        filled = [*batch, *([""] * (self.share.batch_size - len(batch)))]
        ids, _ = self._tokenizer.encode_batch(filled, self._context_length)
        return np.asarray(_text_features(self.model, self.params, self._place(ids)))[: len(batch)]

    def everywhere(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all processes, in the order in which their images are encoded."""
        return np.asarray(_everywhere(self.spread(rows)))

    def spread(self, rows: np.ndarray):
        """This process's rows as its part of the global batch."""
        mesh = jax.sharding.get_mesh()
        return rows if mesh.empty else jax.make_array_from_process_local_data(meshes.batch_sharding(mesh), rows)

    def _place(self, rows: np.ndarray):
        """The whole batch, the same on every process, in its order."""
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            return rows
        return jax.make_array_from_callback(rows.shape, meshes.batch_sharding(mesh), lambda index: rows[index])


def pad_boxes(boxes: list[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [rows, M, 4] and which are real, bool [rows, M]; M is a power of two, so that few shapes are compiled."""
    most = 1 << max(most - 1, 0).bit_length()
    padded, valid = np.zeros((len(boxes), most, 4), np.float32), np.zeros((len(boxes), most), bool)
    for row, own in enumerate(boxes):
        padded[row, : len(own)], valid[row, : len(own)] = own, True
    return padded, valid


@functools.partial(jax.jit, static_argnums=0)
def _image_features(model, params, images, content=None):
    content = None if content is None else rules.constrain(content)
    encoded = model.apply({"params": params}, rules.constrain(images), content=content, method="encode_image")
    return whole(normalise(encoded.pooled)), encoded.tokens


@functools.partial(jax.jit, static_argnums=(4, 5))
def _region_features(tokens, boxes, valid, filled, grid, mode):
    return whole(region_features.pool_regions(tokens.astype("float32"), boxes, valid, grid, mode, None, filled)[0])


@functools.partial(jax.jit, static_argnums=0)
def _text_features(model, params, ids):
    encoded = model.apply({"params": params}, rules.constrain(ids), method="encode_text")
    return whole(normalise(encoded.pooled))


@jax.jit
def _digest(params):
    """Two sums over the bits of all weights and their places; of whole numbers, so that shards change nothing."""
    sums = []
    for leaf in jax.tree.leaves(params):
        bits = jax.lax.bitcast_convert_type(leaf.astype("float32"), "uint32").reshape(-1)
        place = jax.lax.iota("uint32", bits.size) * jax.numpy.uint32(2654435761) + jax.numpy.uint32(1)
        mixed = (bits ^ (bits >> 15)) * place
        sums.append(jax.numpy.stack([mixed.sum(dtype="uint32"), (mixed ^ (mixed >> 13)).sum(dtype="uint32")]))
    return whole(jax.numpy.stack(sums))


@jax.jit
def _everywhere(x):
    return whole(x)


def whole(x):
    """On a mesh, gives every device and so every process the whole result."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, PartitionSpec())
