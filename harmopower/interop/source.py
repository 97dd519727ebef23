"""Published CLIP weights as ours: which layout a file has, what its model is, and whether nothing is left over."""

import dataclasses
from types import ModuleType

from etils import epath
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from harmopower import config as configs
from harmopower import settings
from harmopower.interop import formats, huggingface, names, open_clip, weights
from harmopower.interop.weights import ConversionError
from harmopower.models import clip, presets
from harmopower.objectives import total

_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Source:
    """Published weights, understood but not yet read.

    Attributes:
      config: a run's config with everything that the source says about its model.
      shapes: our shapes by flat name, at the source's own resolution and context length.
      vocabulary: number of token ids.
      tokenizer: the source's `tokenizer.json`, None where it has none.
      notes: what was assumed, and which of their tensors are not used.
    """

    layout: ModuleType
    weights: weights.Weights
    config: ConfigDict
    shapes: dict[str, tuple[int, ...]]
    vocabulary: int
    tokenizer: epath.Path | None
    notes: tuple[str, ...]

    def read(self, name: str) -> np.ndarray:
        """One of our parameters by its flat name, float32."""
        rule = next(rule for rule in self.layout.RULES if rule.ours == name)
        shape = self.shapes[name]
        if not rule.layered:
            return rule.to_ours([self.weights[theirs] for theirs in rule.theirs], shape)
        return np.stack(
            [
                rule.to_ours([self.weights[theirs.format(layer=layer)] for theirs in rule.theirs], shape[1:])
                for layer in range(shape[0])
            ]
        )


def open_source(path, **overrides) -> Source:
    """Opens published weights: a file of OpenCLIP's, OpenAI's or Hugging Face's names, or the folder of one of them.

    Args:
      path: local or `gs://`.
      overrides: facts (`formats.Facts`) that the user states; None leaves what the source says.

    Raises:
      ConversionError: one line that names the file, tensor or setting that is wrong.
    """
    file = _weights_file(epath.Path(path))
    layout, found = _layout(weights.read(file), file)
    facts = layout.read_facts(file.parent, found)
    facts = dataclasses.replace(facts, **{key: value for key, value in overrides.items() if value is not None})
    sizes = formats.sizes(found.shapes, layout.RULES, facts, file)
    if facts.eot_id not in (None, sizes.vocabulary - 1):
        raise ConversionError(
            f"{file}: the end token has the id {facts.eot_id}, not the highest of its {sizes.vocabulary} ids"
        )
    config = _config(facts, sizes, "logit_bias" in found.shapes)
    shapes = config_shapes(config, sizes.vocabulary)
    unused = _check_names(layout, found, shapes, file)
    tokenizer = file.parent / "tokenizer.json"
    return Source(
        layout,
        found,
        config,
        shapes,
        sizes.vocabulary,
        tokenizer if tokenizer.exists() else None,
        facts.notes + ((f"not used: {listed(unused)}",) if unused else ()),
    )


def config_shapes(config, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of a config's model by flat name."""
    model = clip.from_config(config, vocabulary, vocabulary - 1, total.scales(config.objective))
    images = jnp.zeros((1, *model.shape, 3), jnp.uint8)
    tree = jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), images, jnp.zeros((1, 3), jnp.int32))))
    return {name: leaf.shape for name, leaf in names.flat(tree["params"]).items()}


def _weights_file(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise ConversionError(f"--source {path} does not exist")
    if not path.is_dir():
        return path
    for name in (*open_clip.FILES, *huggingface.FILES):
        if (path / name).exists():
            return path / name
    known = ", ".join(dict.fromkeys(open_clip.FILES + huggingface.FILES))
    raise ConversionError(f"--source {path} holds none of {known}; name the file itself if it has another name")


def _layout(found: weights.Weights, file) -> tuple[ModuleType, weights.Weights]:
    for layout in (open_clip, huggingface):
        tidy = layout.tidy(found)
        if layout.RULES[0].theirs[0] in tidy.shapes:
            return layout, tidy
    marks = " nor ".join(layout.RULES[0].theirs[0] for layout in (open_clip, huggingface))
    raise ConversionError(
        f"{file} is no ViT CLIP of OpenCLIP, OpenAI or Hugging Face: it has neither {marks}, "
        f"but {listed(sorted(found.shapes))}"
    )


def _config(facts: formats.Facts, sizes: formats.Sizes, sigmoid: bool):
    config = configs.get_config()
    height, width = sizes.image_shape
    config.data.image_size, config.data.image_width = height, 0 if width == height else width
    config.data.context_length = sizes.context_length
    config.data.resize_mode = facts.resize_mode
    config.model.preset = presets.name_of(sizes.preset)
    for key in ("activation", "layer_norm_epsilon", "pool", "text_pool"):
        config.model[key] = getattr(facts, key)
    for key in ("pixel_mean", "pixel_std"):
        config.model[key] = settings.as_numbers(getattr(facts, key))
    config.objective.global_contrastive.kind = "sigmoid" if sigmoid else "softmax"
    return config


def _check_names(layout: ModuleType, found: weights.Weights, shapes: dict, file) -> list[str]:
    """Compares names and shapes with what our model needs; returns the names that are not used."""
    expected = {}
    for rule in layout.RULES:
        if rule.ours in shapes:
            shape = shapes[rule.ours]
            for layer in range(shape[0]) if rule.layered else [None]:
                theirs = rule.their_shape(shape[1:] if rule.layered else shape)
                expected |= {name.format(layer=layer): theirs for name in rule.theirs}
    missing = sorted(expected.keys() - found.shapes.keys())
    surplus = sorted(found.shapes.keys() - expected.keys())
    foreign = [name for name in surplus if layout.in_tower(name) and not layout.harmless(name)]
    wrong = [
        f"{name} is {list(found.shapes[name])}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found.shapes and _squeezed(found.shapes[name]) != _squeezed(shape)
    ]
    problems = [("missing", missing), ("of another architecture", foreign), ("of another shape", wrong)]
    if any(names for _, names in problems):
        text = "; ".join(f"{title}: {listed(names)}" for title, names in problems if names)
        raise ConversionError(f"{file} does not fit: {text}")
    return surplus


def _squeezed(shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)  # temperatures are stored with and without an axis


def listed(names: list[str]) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
