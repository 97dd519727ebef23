"""The two-tower CLIP model."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num
from ml_collections import ConfigDict

from harmopower import settings
from harmopower.arrays import AnyArray
from harmopower.errors import ConfigError
from harmopower.models import presets
from harmopower.models.text import TextTower
from harmopower.models.vision import VisionTower, filled_cells

VOCABULARY = 49408  # of CLIP's own tokenizer, whose end token is the last id
CLIP_SCALES = (("logit_scale", math.log(1 / 0.07), True),)  # what CLIP learns beside its towers


class Encoded(NamedTuple):
    """What a tower gives, in the shared space and not normalised: pooled `[B, D]`, tokens `[B, N or T, D]`."""

    pooled: Float[Array, "B D"]
    tokens: Float[Array, "B N D"]


class CLIP(nn.Module):
    """Image and text towers with a shared space and the learnable temperatures of the losses."""

    preset: presets.Preset
    image_size: int
    context_length: int
    vocabulary: int
    eot_id: int
    pool: str
    text_pool: str
    dense: str
    transformer: Mapping  # what both towers' blocks share: activation, attention, epsilon, dtype, remat, scan_unroll
    pixel_mean: tuple[float, ...]  # of red, green and blue
    pixel_std: tuple[float, ...]
    learnt: tuple[tuple[str, float, bool], ...] = CLIP_SCALES  # scalars of the losses: name, start, logarithmic
    position_init: str = "sincos"
    frozen_blocks: tuple[int, int] = (0, 0)  # first blocks of the image and text tower whose weights have no gradient
    image_width: int = 0  # 0: images are square

    def setup(self) -> None:
        self.vision = VisionTower(
            self.preset.vision,
            self.preset.shared,
            self.preset.patch_size,
            self.grid,
            self.pool,
            self.dense,
            self.transformer,
            self.frozen_blocks[0],
            self.position_init,
        )
        self.text = TextTower(
            self.preset.text,
            self.preset.shared,
            self.vocabulary,
            self.context_length,
            self.eot_id,
            self.text_pool,
            self.transformer,
            self.frozen_blocks[1],
        )
        self._learnt = {name: self.param(name, _scalar(start), ()) for name, start, _ in self.learnt}

    @property
    def loss(self) -> str:
        """Which global loss reads the scalars: "sigmoid" where there is a bias, else "softmax"."""
        return "sigmoid" if any(name == "logit_bias" for name, *_ in self.learnt) else "softmax"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.image_size, self.image_width or self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        height, width = self.shape
        return height // self.preset.patch_size, width // self.preset.patch_size

    def encode_image(
        self,
        images: Num[AnyArray, "B H W 3"],
        kept: Int[AnyArray, "B N"] | None = None,
        content: Int[AnyArray, "B 2"] | None = None,
    ) -> Encoded:
        """Encodes images `[B, H, W, 3]`: uint8 pixels, or float pixels already in 0..1. Normalised here, on the device.

        With `kept` int32 `[B, N]` only those patches are computed, and `tokens` are theirs (patch dropout). `content`
        int32 `[B, 2]` says how many rows and columns of pixels are not padding. The mean takes the place of all others,
        whatever they are, so padding is the same for every image; patches that are padding alone are not in the mean of
        the patches. They are attended to, as those of detection code are.
        """
        pixels = images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
        pixels = (pixels - jnp.array(self.pixel_mean)) / jnp.array(self.pixel_std)
        if content is None:
            return Encoded(*self.vision(pixels, kept))
        inside = filled_cells(content, (images.shape[1], images.shape[2]))
        pixels = jnp.where(inside[..., None], pixels, 0)
        return Encoded(*self.vision(pixels, kept, self.filled(content)))

    def filled(self, content: Int[AnyArray, "B 2"]) -> Int[Array, "B 2"]:
        """How many rows and columns of the patch grid have pixels that are not padding."""
        return -(-jnp.asarray(content) // self.preset.patch_size)

    def encode_text(self, ids: Int[AnyArray, "B T"]) -> Encoded:
        """Encodes token ids `[B, T]`."""
        return Encoded(*self.text(ids))

    def scales(self) -> dict[str, Float[Array, ""]]:
        """The scalars of the losses by name, those that are learnt as logarithms exponentiated.

        The train step clamps the latter's parameters after each update, as CLIP does (training/step.py).
        """
        return {
            name: jnp.exp(self._learnt[name]) if logarithmic else self._learnt[name]
            for name, _, logarithmic in self.learnt
        }

    def __call__(
        self, images: Num[AnyArray, "B H W 3"], ids: Int[AnyArray, "C T"]
    ) -> tuple[Encoded, Encoded, dict[str, Float[Array, ""]]]:
        """Touches every parameter, for `init`; training calls the encoders."""
        return self.encode_image(images), self.encode_text(ids), self.scales()


def _scalar(value: float) -> Callable:
    return nn.with_logical_partitioning(nn.initializers.constant(value), ())


def grid(config: ConfigDict) -> tuple[int, int]:
    """Rows and columns of the patch grid of a run's config.

    Raises:
      ConfigError: the preset is unknown or a side of the images is no multiple of its patch size.
    """
    patch_size, data = presets.get(config.model.preset).patch_size, config.data
    for key in ("image_size", "image_width"):
        if data[key] % patch_size:
            raise ConfigError(
                f"config.data.{key} {data[key]} is no multiple of the patch size {patch_size} of "
                f"config.model.preset {config.model.preset}"
            )
    return data.image_size // patch_size, (data.image_width or data.image_size) // patch_size


def text_pool(config: ConfigDict) -> str:
    """How the text tower pools, `eos` or `mean`: what `config.model.text_pool` says, or as the image tower does."""
    like_image = "eos" if config.model.pool == "cls" else "mean"
    return like_image if config.model.text_pool == "auto" else config.model.text_pool


def from_config(
    config: ConfigDict, vocabulary: int, eot_id: int, learnt: Sequence[tuple[str, float, bool]] = CLIP_SCALES
) -> CLIP:
    """Builds the model of a run's config for a tokenizer of that many ids.

    `learnt`: the scalars that the run's objectives learn, each a name, a start, and whether the parameter is the
    logarithm (`harmopower.objectives.total.scales`).

    Raises:
      ConfigError: the preset is unknown or a side of the images is no multiple of its patch size.
    """
    grid(config)
    preset = presets.get(config.model.preset)
    transformer = {name: config.model[name] for name in ("activation", "attention", "remat", "scan_unroll")}
    transformer |= {"epsilon": config.model.layer_norm_epsilon, "dtype": jnp.dtype(config.model.dtype)}
    return CLIP(
        preset=preset,
        image_size=config.data.image_size,
        image_width=config.data.image_width,
        context_length=config.data.context_length,
        vocabulary=vocabulary,
        eot_id=eot_id,
        pool=config.model.pool,
        text_pool=text_pool(config),
        dense=config.model.dense,
        position_init=config.model.position_init,
        transformer=nn.FrozenDict(transformer),
        pixel_mean=settings.numbers(config.model.pixel_mean),
        pixel_std=settings.numbers(config.model.pixel_std),
        learnt=tuple((name, start, logarithmic) for name, start, logarithmic in learnt),
    )
