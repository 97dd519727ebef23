"""What a published model is besides its weights, in our words: the facts that drift when weights are converted."""

import dataclasses

from harmopower.interop.weights import ConversionError
from harmopower.models.clip import CLIP
from harmopower.models.presets import Preset, Tower

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_DIM = 64  # of every OpenAI and OpenCLIP ViT whose config does not say otherwise


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that the weights do not tell, under the names of `config.model` and `config.data`.

    Attributes:
      vision_heads, text_heads: None for a head of 64 channels.
      eot_id: the end token's id where the source names one; it must be the highest id.
      image_shape: height and width in pixels where they are not the same; the positions alone would not tell.
      notes: what was assumed because the source does not say it.
    """

    activation: str = "quick_gelu"
    layer_norm_epsilon: float = 1e-5
    pool: str = "cls"
    text_pool: str = "eos"
    pixel_mean: tuple[float, ...] = OPENAI_MEAN
    pixel_std: tuple[float, ...] = OPENAI_STD
    resize_mode: str = "shortest"
    vision_heads: int | None = None
    text_heads: int | None = None
    eot_id: int | None = None
    image_shape: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the shapes of the weights tell."""

    preset: Preset
    image_shape: tuple[int, int]
    context_length: int
    vocabulary: int


def sizes(shapes: dict, rules, facts: Facts, source) -> Sizes:
    """Derives the model's sizes from the shapes of published weights.

    Raises:
      ConversionError: these are not the weights of a two-tower ViT CLIP of our kind; the text names the tensor.
    """
    names = {rule.ours: rule.theirs for rule in rules}

    def shape(ours: str) -> tuple[int, ...]:
        name = names[ours][0].format(layer=0)
        if name not in shapes:
            raise ConversionError(f"{source} is no ViT CLIP of a layout that is known here: it has no {name}")
        return tuple(shapes[name])

    (width, _, patch_size, _), (text_width, shared) = shape("vision/patch_kernel"), _inputs_outputs(names, shape)
    positions, (context_length, _) = shape("vision/position")[0], shape("text/position")
    vocabulary = shape("text/tokens")[0]
    image_shape = _image_shape(positions - 1, patch_size, facts.image_shape, source)
    for tower, channels in (("vision", width), ("text", text_width)):
        hidden = shape(f"{tower}/transformer/blocks/mlp_in/kernel")[0]
        if hidden != 4 * channels:
            raise ConversionError(
                f"{source}: the {tower} MLP has {hidden} channels, not 4 x {channels}; such sizes are unknown here"
            )
    depth = {
        tower: _depth(names[f"{tower}/transformer/blocks/norm_1/scale"][0], shapes) for tower in ("vision", "text")
    }
    return Sizes(
        Preset(
            patch_size,
            shared,
            _tower("vision", width, depth, facts.vision_heads, source),
            _tower("text", text_width, depth, facts.text_heads, source),
        ),
        image_shape,
        context_length,
        vocabulary,
    )


def _image_shape(patches: int, patch_size: int, said: tuple[int, int] | None, source) -> tuple[int, int]:
    side = round(patches**0.5)
    height, width = said or (side * patch_size, side * patch_size)
    if (height // patch_size) * (width // patch_size) == patches:
        return height, width
    if said:
        raise ConversionError(f"{source}: {patches} image positions are not those of {pixels(said)}, which it says")
    raise ConversionError(
        f"{source}: {patches} image positions are no square grid, and it does not say which other one"
    )


def pixels(shape: tuple[int, int]) -> str:
    """A height and width for a reader."""
    return f"{shape[0]} px" if shape[0] == shape[1] else f"{shape[0]} x {shape[1]} px"


def _inputs_outputs(names: dict, shape) -> tuple[int, int]:
    """Width of the text tower and of the shared space; OpenCLIP stores the projection the other way round."""
    width, projection = shape("text/norm_final/scale")[0], shape("text/projection")
    return width, projection[1] if names["text/projection"][0] == "text_projection" else projection[0]


def _depth(template: str, shapes: dict) -> int:
    depth = 0
    while template.format(layer=depth) in shapes:
        depth += 1
    return depth


def _tower(name: str, width: int, depth: dict, heads: int | None, source) -> Tower:
    if heads is None and width % HEAD_DIM:
        raise ConversionError(
            f"{source} does not say its heads, and {HEAD_DIM} channels each do not divide the {name} width {width}; "
            f"give --{name}-heads"
        )
    heads = heads or width // HEAD_DIM
    if width % heads:
        raise ConversionError(
            f"{heads} {name} heads do not divide the width {width} of {source}; correct --{name}-heads"
        )
    return Tower(width, depth[name], heads)


def of_model(model: CLIP, resize_mode: str) -> Facts:
    """The facts of one of our models."""
    return Facts(
        activation=model.transformer["activation"],
        layer_norm_epsilon=model.transformer["epsilon"],
        pool=model.pool,
        text_pool=model.text_pool,
        pixel_mean=tuple(model.pixel_mean),
        pixel_std=tuple(model.pixel_std),
        resize_mode=resize_mode,
        vision_heads=model.preset.vision.heads,
        text_heads=model.preset.text.heads,
        eot_id=model.eot_id,
    )


def known(table: dict, value, key: str, source) -> str:
    """Our word for a setting of theirs.

    Raises:
      ConversionError: we have none; the text lists the values that are known.
    """
    if value not in table:
        raise ConversionError(
            f"{source}: {key} {value!r} is none of {', '.join(map(repr, table))}, which is all that is known here"
        )
    return table[value]
