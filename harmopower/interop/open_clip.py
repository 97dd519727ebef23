"""OpenCLIP folders: `open_clip_config.json` and `open_clip_model.safetensors`; OpenAI state dicts have these names."""

import dataclasses
import json
from pathlib import Path

from etils import epath

from harmopower.interop import names
from harmopower.interop.formats import Facts, known
from harmopower.interop.weights import ConversionError, Weights
from harmopower.models.clip import CLIP

RULES = names.OPEN_CLIP
CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
FILES = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's state dicts carry
_POOLS = {"tok": "cls", "avg": "mean"}
_TEXT_POOLS = {"argmax": "eos", "eos": "eos"}  # our end token has the highest id, so both are its position
# What their towers may say without computing something else than ours: read below, fixed, or of no effect here.
_READ = {
    "layers",
    "width",
    "heads",
    "head_width",
    "patch_size",
    "image_size",
    "pool_type",
    "act_kwargs",
    "norm_kwargs",
    "context_length",
    "vocab_size",
    "eos_id",
    "pad_id",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "tokenizer_kwargs",
    "patch_dropout",
    "output_tokens",
    "attn_pooler_queries",
    "attn_pooler_heads",
}
_FIXED = {"mlp_ratio": 4.0, "pos_embed_type": "learnable", "proj_type": "linear", "block_type": "default"}


def refuse(facts: Facts) -> None:
    """Raises ConversionError where OpenCLIP's config cannot express a model; the text names the option."""
    if facts.text_pool == "mean":
        raise ConversionError(
            "OpenCLIP's config has no mean over text tokens (config.model.text_pool is mean; with auto it follows "
            "config.model.pool); use --format huggingface, which brings its own modelling file"
        )


def write_config(folder: Path, model: CLIP, facts: Facts, pad_id: int) -> None:
    """Writes the config of a model whose weights are in the same folder."""
    vision, text = model.preset.vision, model.preset.text
    shared: dict[str, dict] = {"norm_kwargs": {"eps": facts.layer_norm_epsilon}}
    if facts.activation == "gelu_tanh":
        shared["act_kwargs"] = {"approximate": "tanh"}
    height, width = model.shape
    size = height if height == width else [height, width]
    sigmoid = {"init_logit_bias": -10.0} if model.loss == "sigmoid" else {}  # its presence makes the parameter
    config = {
        "model_cfg": sigmoid
        | {
            "embed_dim": model.preset.shared,
            "quick_gelu": facts.activation == "quick_gelu",
            "vision_cfg": shared
            | {
                "image_size": size,
                "patch_size": model.preset.patch_size,
                "width": vision.width,
                "layers": vision.layers,
                "head_width": vision.width // vision.heads,
                "pool_type": "avg" if facts.pool == "mean" else "tok",
            },
            "text_cfg": shared
            | {
                "context_length": model.context_length,
                "vocab_size": model.vocabulary,
                "width": text.width,
                "layers": text.layers,
                "heads": text.heads,
                "pool_type": "eos",
                "eos_id": facts.eot_id,
                "pad_id": pad_id,
                "proj_bias": False,
                # Any name makes OpenCLIP read the tokenizer beside this file; on the Hub it must be the repository's.
                "hf_tokenizer_name": "local",
            },
        },
        "preprocess_cfg": {
            "size": size,
            "mode": "RGB",
            "mean": list(facts.pixel_mean),
            "std": list(facts.pixel_std),
            "interpolation": "bicubic",
            "resize_mode": facts.resize_mode,
            "fill_color": 0,
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def tidy(weights: Weights) -> Weights:
    """The names without the prefixes of data-parallel training and of custom text towers."""
    return weights.renamed(lambda name: name.removeprefix("module.").removeprefix("_orig_mod.").removeprefix("text."))


def harmless(name: str) -> bool:
    """Whether a tensor outside our tables computes nothing: OpenAI's numbers, and stored attention masks."""
    return name in _OPENAI_EXTRAS or name.endswith("attn_mask")


def in_tower(name: str) -> bool:
    """Whether a tensor belongs to a tower, so that ignoring it would change what the tower computes."""
    return name.startswith(("visual.", "transformer.", "ln_final", "text_projection", "token_embedding", "cls_emb"))


def read_facts(folder: epath.Path, weights: Weights) -> Facts:
    """What the folder says about its model; a state dict alone gets the defaults of those who publish such files.

    Raises:
      ConversionError: the config asks for something that our towers do not compute.
    """
    path = folder / CONFIG
    if not path.exists():
        openai = _OPENAI_EXTRAS[0] in weights.shapes
        activation = "quick_gelu" if openai else "gelu"
        whose = "OpenAI's" if openai else "OpenCLIP's, unless its name ends in -quickgelu"
        return Facts(
            activation=activation,
            notes=(
                f"no {CONFIG} beside the weights: activation {activation} ({whose}), pool cls and eos, heads of 64 "
                "channels, OpenAI's pixel_mean and pixel_std, resize_mode shortest; the flags of tools.convert_weights "
                "say what is otherwise",
            ),
        )
    try:
        found = json.loads(path.read_text())
        return _facts(found["model_cfg"], found.get("preprocess_cfg", {}), path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{path} is no OpenCLIP config: {error!r}") from error


def _facts(model: dict, preprocess: dict, path) -> Facts:
    vision, text = model["vision_cfg"], model["text_cfg"]
    for section, settings in (("vision_cfg", vision), ("text_cfg", text)):
        _refuse_settings(section, settings, path)
    preprocess = {key: value for key, value in preprocess.items() if value is not None}
    known({"bicubic": "bicubic"}, preprocess.get("interpolation", "bicubic"), "preprocess_cfg.interpolation", path)
    modes = {mode: mode for mode in ("shortest", "squash")}
    plain = Facts()
    return dataclasses.replace(
        plain,
        activation=_activation(model, vision, text, path),
        layer_norm_epsilon=_same(
            {
                key: (cfg.get("norm_kwargs") or {}).get("eps", 1e-5)
                for key, cfg in (("vision_cfg", vision), ("text_cfg", text))
            },
            "norm_kwargs.eps",
            path,
        ),
        pool=known(_POOLS, vision.get("pool_type", "tok"), "vision_cfg.pool_type", path),
        text_pool=known(_TEXT_POOLS, text.get("pool_type", "argmax"), "text_cfg.pool_type", path),
        pixel_mean=_triple(preprocess.get("mean", plain.pixel_mean)),
        pixel_std=_triple(preprocess.get("std", plain.pixel_std)),
        resize_mode=known(modes, preprocess.get("resize_mode", "shortest"), "preprocess_cfg.resize_mode", path),
        vision_heads=vision["width"] // vision.get("head_width", 64),
        text_heads=text.get("heads", 8),
        image_shape=_rectangle(vision.get("image_size")),
        eot_id=text.get("eos_id") if text.get("pool_type") == "eos" else None,
    )


def _refuse_settings(section: str, settings: dict, path) -> None:
    for key, value in settings.items():
        if key in _READ or value in (None, False, 0) or value == _FIXED.get(key):
            continue
        raise ConversionError(f"{path}: {section}.{key} {value!r} is something that our towers do not have")


def _activation(model: dict, vision: dict, text: dict, path) -> str:
    found = {
        key: (cfg.get("act_kwargs") or {}).get("approximate", "none")
        for key, cfg in (("vision_cfg", vision), ("text_cfg", text))
    }
    key = "act_kwargs.approximate"
    kind = known({"none": "gelu", "tanh": "gelu_tanh"}, _same(found, key, path), key, path)
    return "quick_gelu" if model.get("quick_gelu") else kind


def _same(found: dict, key: str, path):
    """The one value of both towers, which share their transformer settings here."""
    if len(set(found.values())) > 1:
        raise ConversionError(f"{path}: {key} differs between the towers ({found}); here they share it")
    return next(iter(found.values()))


def _rectangle(size) -> tuple[int, int] | None:
    """Height and width where they are two numbers; None where the positions tell."""
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _triple(value) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
