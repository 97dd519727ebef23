"""Hugging Face's folders: `config.json`, `model.safetensors`, tokenizer and preprocessor.

A model that `CLIPModel` expresses becomes one. Others (mean pooling, the sigmoid loss's bias) become a model of their
own, whose code travels in the folder (`modeling_harmopower.py`, loaded with `trust_remote_code=True`).
"""

import dataclasses
import json
from pathlib import Path
import shutil

from etils import epath

from harmopower.interop import names
from harmopower.interop.formats import Facts, known
from harmopower.interop.weights import ConversionError, Weights
from harmopower.models.clip import CLIP

RULES = names.HUGGING_FACE
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
OWN_TYPE = "harmopower_clip"
OWN_CODE = Path(__file__).with_name("modeling_harmopower.py")
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
_BICUBIC = 3  # Pillow's number
_OLD_EOT = 2  # written into configs by old versions of transformers, which then take the highest id


def needs_own_code(facts: Facts, loss: str) -> bool:
    """Whether `CLIPModel` does not express a model."""
    return (facts.pool, facts.text_pool, loss) != ("cls", "eos", "softmax")


def refuse(model: CLIP) -> None:
    """Raises ConversionError where `CLIPModel` has no place for a model; the text names the option."""
    if model.shape[0] != model.shape[1]:
        raise ConversionError(
            f"Hugging Face's CLIP has one image_size, but config.data.image_size is {model.shape[0]} and image_width "
            f"{model.shape[1]}; use --format open_clip, or resample to a square: fine-tune from this run by config.init"
        )


def write_config(folder: Path, model: CLIP, facts: Facts, bos_id: int, pad_id: int) -> None:
    """Writes the configs of a model whose weights are in the same folder, and its code where it needs some."""
    config = (
        _own_type(folder, model, facts)
        if needs_own_code(facts, model.loss)
        else {"model_type": "clip", "architectures": ["CLIPModel"]}
    )
    act = {"gelu_tanh": "gelu_pytorch_tanh"}.get(facts.activation, facts.activation)
    shared = {"hidden_act": act, "layer_norm_eps": facts.layer_norm_epsilon, "projection_dim": model.preset.shared}
    config |= {
        "dtype": "float32",
        "projection_dim": model.preset.shared,
        "vision_config": shared
        | _tower(model.preset.vision)
        | {"model_type": "clip_vision_model", "image_size": model.image_size, "patch_size": model.preset.patch_size},
        "text_config": shared
        | _tower(model.preset.text)
        | {
            "model_type": "clip_text_model",
            "max_position_embeddings": model.context_length,
            "vocab_size": model.vocabulary,
            "bos_token_id": bos_id,
            "eos_token_id": facts.eot_id,
            "pad_token_id": pad_id,
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / PREPROCESSOR).write_text(json.dumps(_preprocessor(model.image_size, facts), indent=2) + "\n")


def _own_type(folder: Path, model: CLIP, facts: Facts) -> dict:
    shutil.copyfile(OWN_CODE, folder / OWN_CODE.name)
    return {
        "model_type": OWN_TYPE,
        "architectures": ["HarmopowerModel"],
        "auto_map": {
            "AutoConfig": f"{OWN_CODE.stem}.HarmopowerConfig",
            "AutoModel": f"{OWN_CODE.stem}.HarmopowerModel",
        },
        "image_pool": facts.pool,
        "text_pool": facts.text_pool,
        "sigmoid": model.loss == "sigmoid",
    }


def _tower(size) -> dict:
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }


def _preprocessor(image_size: int, facts: Facts) -> dict:
    square = {"height": image_size, "width": image_size}
    shortest = facts.resize_mode == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size} if shortest else square,
        "resample": _BICUBIC,
        "do_center_crop": shortest,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(facts.pixel_mean),
        "image_std": list(facts.pixel_std),
    }


def tidy(weights: Weights) -> Weights:
    """The names as they are."""
    return weights


def harmless(name: str) -> bool:
    """Whether a tensor outside our tables computes nothing: the position numbers that old versions stored."""
    return name.endswith("position_ids")


def in_tower(name: str) -> bool:
    """Whether a tensor belongs to a tower, so that ignoring it would change what the tower computes."""
    return name.startswith(("vision_model.", "text_model.", "visual_projection", "text_projection"))


def read_facts(folder: epath.Path, weights: Weights) -> Facts:
    """What the folder says about its model.

    Raises:
      ConversionError: there is no config, or it asks for something that our towers do not compute.
    """
    del weights
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        preprocessor = folder / PREPROCESSOR
        found = json.loads(preprocessor.read_text()) if preprocessor.exists() else None
        return _facts(config, found, path)
    except FileNotFoundError as error:
        raise ConversionError(
            f"there is no {path}; Hugging Face's weights do not say their heads and activation"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{path} or {PREPROCESSOR} is not CLIP's: {error!r}") from error


def _facts(config: dict, preprocessor: dict | None, path) -> Facts:
    kind = known({"clip": "clip", OWN_TYPE: OWN_TYPE}, config.get("model_type"), "model_type", path)
    # Old files repeat the settings under these names, which then win, as in transformers.
    vision, text = (
        {**(config.get(f"{tower}_config") or {}), **(config.get(f"{tower}_config_dict") or {})}
        for tower in ("vision", "text")
    )
    own = kind == OWN_TYPE
    eot_id = text.get("eos_token_id", 49407)
    facts = Facts(
        activation=known(_ACTIVATIONS, _same(vision, text, "hidden_act", "quick_gelu", path), "hidden_act", path),
        layer_norm_epsilon=_same(vision, text, "layer_norm_eps", 1e-5, path),
        pool=config["image_pool"] if own else "cls",
        text_pool=config["text_pool"] if own else "eos",
        vision_heads=vision.get("num_attention_heads", 12),
        text_heads=text.get("num_attention_heads", 8),
        eot_id=None if eot_id == _OLD_EOT else eot_id,
    )
    if preprocessor is None:
        note = f"no {PREPROCESSOR} beside the weights: OpenAI's pixel_mean and pixel_std, resize_mode shortest"
        return dataclasses.replace(facts, notes=(note,))
    return _with_preprocessor(facts, preprocessor, path)


def _with_preprocessor(facts: Facts, found: dict, path) -> Facts:
    known({_BICUBIC: "bicubic"}, found.get("resample", _BICUBIC), "resample of the preprocessor", path)
    size = found.get("size", 224)
    shortest = isinstance(size, int) or "shortest_edge" in size
    return dataclasses.replace(
        facts,
        resize_mode="shortest" if shortest else "squash",
        pixel_mean=tuple(found.get("image_mean", facts.pixel_mean)),
        pixel_std=tuple(found.get("image_std", facts.pixel_std)),
    )


def _same(vision: dict, text: dict, key: str, default, path):
    found = vision.get(key, default), text.get(key, default)
    if found[0] != found[1]:
        raise ConversionError(
            f"{path}: {key} differs between the towers (vision {found[0]!r}, text {found[1]!r}); here they share it"
        )
    return found[0]
