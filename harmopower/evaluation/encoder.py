"""Embeddings of images, regions and texts for evaluation: jitted once, in batches of one shape."""

import functools
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec
import numpy as np

from harmopower.data import images, records, transforms
from harmopower.features import regions as region_features
from harmopower.features.vectors import normalise
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules


class Prepared(NamedTuple):
    """An example as the model takes it."""

    image: np.ndarray  # uint8 [image_size, image_size, 3]
    boxes: np.ndarray  # float32 [m, 4], in shares of that image
    kept: np.ndarray  # which of the example's regions these boxes are: int [m]


class Encoder:
    """A model with its parameters, as functions from images and texts to unit vectors.

        encoder = Encoder(model, params, tokenizer, image_size=64, context_length=24, batch_size=256)
        texts = encoder.encode_texts(["a red circle", "a blue square"])                  # [2, D]

    Compiled code is kept between encoders of equal models, so an evaluation in the middle of training compiles only the
    first time. Parameters may lie on a mesh: enter it with `jax.set_mesh`, and the batch is spread over its devices.
    Several processes must encode the same inputs in the same order; each gets all results.
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
    ):
        """Sets up; compiles at first use.

        Args:
          model, params: the Flax model and its parameters, unboxed.
          tokenizer: `harmopower.data.tokenize.Tokenizer`.
          image_size, context_length, region_pooling, resize_mode: as in training.
          batch_size: images or texts a pass; rounded up so that it divides over the mesh.
        """
        shards = meshes.batch_shards(jax.sharding.get_abstract_mesh())
        self.batch_size = -(-batch_size // shards) * shards
        self._model, self._params, self._tokenizer = model, params, tokenizer
        self._image_size, self._context_length = image_size, context_length
        self._region_pooling, self._resize_mode = region_pooling, resize_mode

    def prepare(self, example: records.Example) -> Prepared:
        """Decodes an example's image and moves its boxes along; boxes that lie outside the window are left out.

        Raises:
          RecordError: the example cannot be used; the text names it.
        """
        problems = records.check(example, decode_image=False)
        if problems:
            raise records.RecordError("; ".join(problems))
        try:
            image = images.decode(example["image"])
        except records.RecordError as error:
            raise records.RecordError(f"record {example['id']}: {error}") from error
        window = transforms.fixed_window(image.size, self._image_size, self._resize_mode)
        boxes, kept = transforms.move_boxes([part["box"] for part in example["regions"]], window, self._image_size)
        pixels = transforms.crop_and_resize(image, window, self._image_size)
        return Prepared(pixels, boxes[kept], np.flatnonzero(kept))

    def encode_images(self, prepared: list[Prepared]) -> tuple[np.ndarray, np.ndarray]:
        """Images [n, D] and their regions [sum of m, D] in the order of the boxes, L2-normalised, from one pass."""
        parts = [self._encode_image_batch(batch) for batch in self._batches(prepared)]
        return np.concatenate([images for images, _ in parts]), np.concatenate([regions for _, regions in parts])

    def _encode_image_batch(self, batch: list[Prepared]) -> tuple[np.ndarray, np.ndarray]:
        pooled, tokens = _image_features(self._model, self._params, self._pad(np.stack([row.image for row in batch])))
        boxes, valid = _pad_boxes([row.boxes for row in batch], self.batch_size)
        # A pass of its own: the number of boxes varies, and only this small function compiles anew for it.
        regions = _region_features(tokens, boxes, valid, self._model.grid, self._region_pooling)
        return np.asarray(pooled)[: len(batch)], np.asarray(regions)[valid]

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Texts [n, D], L2-normalised; what exceeds the context length is cut."""
        return np.concatenate([self._encode_text_batch(batch) for batch in self._batches(texts)])

    def _encode_text_batch(self, batch: list[str]) -> np.ndarray:
        ids, _ = self._tokenizer.encode_batch(batch, self._context_length)
        return np.asarray(_text_features(self._model, self._params, self._pad(ids)))[: len(batch)]

    def _batches(self, items: list):
        return (items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size))

    def _pad(self, rows: np.ndarray) -> np.ndarray:
        """Repeats the last row, so that every batch has the shape that is compiled."""
        return np.concatenate([rows, np.repeat(rows[-1:], self.batch_size - len(rows), axis=0)])


def _pad_boxes(boxes: list[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [rows, M, 4] and which are real, bool [rows, M]; M is a power of two, so that few shapes are compiled."""
    most = 1 << max(max(map(len, boxes)) - 1, 0).bit_length()
    padded, valid = np.zeros((rows, most, 4), np.float32), np.zeros((rows, most), bool)
    for row, own in enumerate(boxes):
        padded[row, : len(own)], valid[row, : len(own)] = own, True
    return padded, valid


@functools.partial(jax.jit, static_argnums=0)
def _image_features(model, params, images):
    encoded = model.apply({"params": params}, rules.constrain(images), method="encode_image")
    return _whole(normalise(encoded.pooled)), encoded.tokens


@functools.partial(jax.jit, static_argnums=(3, 4))
def _region_features(tokens, boxes, valid, grid, mode):
    return _whole(region_features.pool_regions(tokens.astype("float32"), boxes, valid, grid, mode)[0])


@functools.partial(jax.jit, static_argnums=0)
def _text_features(model, params, ids):
    encoded = model.apply({"params": params}, rules.constrain(ids), method="encode_text")
    return _whole(normalise(encoded.pooled))


def _whole(x):
    """On a mesh, gives every device and so every process the whole result."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, PartitionSpec())
