"""The names and layouts of CLIP's parameters: ours, OpenCLIP's (and OpenAI's) and Hugging Face's, as tables of rules.

Ours are flat names (`vision/transformer/blocks/qkv/kernel`); those under `blocks` hold all layers on a leading axis.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Any

from flax import traverse_util
import numpy as np

BLOCKS = "/blocks/"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter in both layouts.

    Attributes:
      ours: flat name.
      theirs: name there, with `{layer}`; several names hold equal parts of one parameter, in this order.
      kind: how one layer lies there. `same`: as ours; `flat`: one axis; `matrix`: `[outputs, inputs]`, as PyTorch's
        linear layers; `patch`: a convolution kernel `[outputs, 3, patch, patch]`.
      inputs: for `matrix`, how many leading axes of ours are inputs.
    """

    ours: str
    theirs: tuple[str, ...]
    kind: str = "same"
    inputs: int = 1

    @property
    def layered(self) -> bool:
        """Whether every layer has its own names there."""
        return BLOCKS in self.ours

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each of their parts, for one layer of ours with that shape."""
        if self.kind == "matrix":
            whole = (math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs]))
        elif self.kind == "patch":
            side = math.isqrt(shape[0] // 3)
            whole = (shape[1], 3, side, side)
        else:
            whole = (math.prod(shape),) if self.kind == "flat" else tuple(shape)
        return (whole[0] // len(self.theirs), *whole[1:]) if len(self.theirs) > 1 else whole

    def to_theirs(self, array: np.ndarray) -> list[np.ndarray]:
        """One layer of ours in their layout: one array for each of their names."""
        if self.kind == "matrix":
            array = array.reshape(math.prod(array.shape[: self.inputs]), -1).T
        elif self.kind == "patch":  # ours: rows x columns x channels of a patch, flattened
            side = math.isqrt(array.shape[0] // 3)
            array = array.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
        elif self.kind == "flat":
            array = array.reshape(-1)
        return np.split(array, len(self.theirs)) if len(self.theirs) > 1 else [array]

    def to_ours(self, parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """One layer of ours, of that shape, from their parts."""
        array = np.concatenate(parts) if len(parts) > 1 else parts[0]
        axes = {"matrix": (1, 0), "patch": (2, 3, 1, 0)}.get(self.kind)
        return (array.transpose(axes) if axes else array).reshape(shape)


def _blocks(ours: str, theirs: str, names: Mapping[str, str], qkv: tuple[str, ...]) -> list[Rule]:
    """The rules of one tower's blocks; `names` maps our modules to theirs, `qkv` are the stems of their projections."""
    ours = f"{ours}/transformer{BLOCKS}"
    joint = len(qkv) == 1  # PyTorch's own attention joins the stem with an underscore: in_proj_weight
    stems = [theirs + stem + ("_" if joint else ".") for stem in qkv]
    rules = [
        Rule(ours + "qkv/kernel", tuple(stem + "weight" for stem in stems), "matrix"),
        Rule(ours + "qkv/bias", tuple(stem + "bias" for stem in stems), "flat"),
    ]
    for module, inputs in (("out", 2), ("mlp_in", 1), ("mlp_out", 1)):
        stem = theirs + names[module]
        rules.append(Rule(f"{ours}{module}/kernel", (f"{stem}.weight",), "matrix", inputs))
        rules.append(Rule(f"{ours}{module}/bias", (f"{stem}.bias",)))
    return rules + [rule for norm in ("norm_1", "norm_2") for rule in _norm(ours + norm, theirs + names[norm])]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/scale", (f"{theirs}.weight",)), Rule(f"{ours}/bias", (f"{theirs}.bias",))]


def _tables(names: Mapping[str, str]) -> list[Rule]:
    return [Rule(ours, (theirs,)) for ours, theirs in names.items()]


def _open_clip() -> tuple[Rule, ...]:
    block = {"norm_1": "ln_1", "norm_2": "ln_2", "out": "attn.out_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
    return (
        Rule("vision/patch_kernel", ("visual.conv1.weight",), "patch"),
        *_tables(
            {
                "vision/class_token": "visual.class_embedding",
                "vision/position": "visual.positional_embedding",
                "vision/projection": "visual.proj",
                "text/tokens": "token_embedding.weight",
                "text/position": "positional_embedding",
                "text/projection": "text_projection",
                "logit_scale": "logit_scale",
                "logit_bias": "logit_bias",
            }
        ),
        *_norm("vision/norm_pre", "visual.ln_pre"),
        *_norm("vision/norm_post", "visual.ln_post"),
        *_norm("text/norm_final", "ln_final"),
        *_blocks("vision", "visual.transformer.resblocks.{layer}.", block, ("attn.in_proj",)),
        *_blocks("text", "transformer.resblocks.{layer}.", block, ("attn.in_proj",)),
    )


def _hugging_face() -> tuple[Rule, ...]:
    block = {
        "norm_1": "layer_norm1",
        "norm_2": "layer_norm2",
        "out": "self_attn.out_proj",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    qkv = tuple(f"self_attn.{name}_proj" for name in "qkv")
    vision, text = "vision_model.embeddings.", "text_model.embeddings."
    return (
        Rule("vision/patch_kernel", (f"{vision}patch_embedding.weight",), "patch"),
        Rule("vision/projection", ("visual_projection.weight",), "matrix"),
        Rule("text/projection", ("text_projection.weight",), "matrix"),
        *_tables(
            {
                "vision/class_token": f"{vision}class_embedding",
                "vision/position": f"{vision}position_embedding.weight",
                "text/tokens": f"{text}token_embedding.weight",
                "text/position": f"{text}position_embedding.weight",
                "logit_scale": "logit_scale",
                "logit_bias": "logit_bias",
            }
        ),
        *_norm("vision/norm_pre", "vision_model.pre_layrnorm"),  # their spelling
        *_norm("vision/norm_post", "vision_model.post_layernorm"),
        *_norm("text/norm_final", "text_model.final_layer_norm"),
        *_blocks("vision", "vision_model.encoder.layers.{layer}.", block, qkv),
        *_blocks("text", "text_model.encoder.layers.{layer}.", block, qkv),
    )


OPEN_CLIP = _open_clip()
HUGGING_FACE = _hugging_face()


def is_scalar_of_a_loss(name: str) -> bool:
    """Whether one of our parameters by flat name belongs to no tower: published formats know two of them by name.

    The others, such as a temperature of the region loss, only serve training.
    """
    return "/" not in name


def flat(params) -> dict[str, Any]:
    """The parameters by their names, `vision/transformer/blocks/qkv/kernel`."""
    return traverse_util.flatten_dict(params, sep="/")


def their_tensors(rules: tuple[Rule, ...], params: Mapping[str, np.ndarray]) -> Iterator[tuple]:
    """What to write, tensor by tensor, so that one tensor at a time is copied.

    Args:
      params: our parameters by flat name; anything that NumPy reads without a copy.

    Yields:
      their name, their shape, and a function that makes the array.
    """
    for rule in rules:
        if rule.ours not in params:
            continue  # logit_bias, which only the sigmoid loss has; the callers check that nothing else is missing
        layers = range(params[rule.ours].shape[0]) if rule.layered else [None]
        for layer in layers:
            for part, name in enumerate(rule.theirs):
                shape = params[rule.ours].shape[1:] if rule.layered else params[rule.ours].shape
                yield name.format(layer=layer), rule.their_shape(shape), _maker(rule, params, layer, part)


def _maker(rule: Rule, params: Mapping[str, np.ndarray], layer: int | None, part: int):
    def make() -> np.ndarray:
        array = np.asarray(params[rule.ours])
        return rule.to_theirs(array if layer is None else array[layer])[part]

    return make
