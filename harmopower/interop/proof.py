"""The proof that an exported folder is the model that was trained: both run on the same images and captions."""

import contextlib
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from harmopower.data import transforms
from harmopower.data.tokenize import Tokenizer
from harmopower.interop import huggingface, open_clip
from harmopower.interop.weights import ConversionError
from harmopower.models.clip import CLIP

LIMIT = 1e-4
_CAPTIONS = (
    "a photo of a cat",
    "Two red squares left of a BLUE circle.",
    "naive cafe, 100% & more!",
    "",
    "a very long caption " * 60,
)


class Probe(NamedTuple):
    """What both models see: pictures, their pixels by our transform `uint8 [B, H, W, 3]`, captions, ids `[B, T]`."""

    pictures: list
    pixels: np.ndarray
    captions: tuple[str, ...]
    ids: np.ndarray


class Answers(NamedTuple):
    """What one model says: unit embeddings `[B, D]` and logits `[images, texts]`."""

    image: np.ndarray
    text: np.ndarray
    logits: np.ndarray


def probe(model: CLIP, tokenizer: Tokenizer, resize_mode: str) -> Probe:
    """Makes pictures (landscape, portrait, square; noise under a gradient) and tokenizes captions."""
    rng, (height, width) = np.random.default_rng(0), model.shape
    sizes = ((3 * width, 2 * height), (width, 2 * height), (width, height))
    pictures = [_picture(rng, *size) for size in sizes]
    pixels = np.stack([transforms.fixed_view(picture, model.shape, resize_mode) for picture in pictures])
    return Probe(pictures, pixels, _CAPTIONS, tokenizer.encode_batch(_CAPTIONS, model.context_length)[0])


def _picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    ramp = np.linspace(0, 200, width)[None, :, None] * rng.uniform(0.3, 1, 3)
    return Image.fromarray((ramp + rng.uniform(0, 55, (height, width, 3))).astype(np.uint8))


@functools.partial(jax.jit, static_argnums=0)
def features(model: CLIP, params, pixels, ids):
    """Everything our model says about pixels and ids: image and text `Encoded`, and the scales."""
    return model.apply({"params": params}, pixels, ids)


def ours(model: CLIP, params, seen: Probe) -> Answers:
    """Runs our model."""
    image, text, scales = jax.device_get(features(model, params, seen.pixels, seen.ids))
    return _answers(image.pooled, text.pooled, scales["logit_scale"], scales.get("logit_bias", 0.0))


def _answers(image, text, scale, bias) -> Answers:
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    return Answers(image, text, scale * image @ text.T + bias)


def check(folder: Path, layout, model: CLIP, expected: Answers, seen: Probe) -> str:
    """Loads the folder in PyTorch and compares.

    Args:
      layout: the module `open_clip` or `huggingface`.

    Returns:
      one line: the largest differences, or why the proof was skipped.

    Raises:
      ConversionError: the models, ids or pixels differ.
    """
    needs = "torch" if layout is open_clip else "transformers"
    for package in dict.fromkeys(("torch", needs)):
        if importlib.util.find_spec(package) is None:
            return f"proof skipped: {package} is not installed (pip install -c constraints.txt -e '.[torch]')"
    run = _open_clip if layout is open_clip else _hugging_face
    found, how = run(folder, model, seen)
    embeddings = max(_distance(expected.image, found.image), _distance(expected.text, found.text))
    logits = _distance(expected.logits, found.logits)
    line = f"largest difference of embeddings {embeddings:.1e}, of logits {logits:.1e} ({how})"
    if not max(embeddings, logits) <= LIMIT:  # also where one is no number
        raise ConversionError(f"the exported model is not the trained one: {line}; the limit is {LIMIT:.0e}")
    return line


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def normalised(model: CLIP, seen: Probe) -> np.ndarray:
    """The pixels as PyTorch models take them: `float32 [B, 3, H, W]`."""
    pixels = (seen.pixels / 255.0 - np.array(model.pixel_mean)) / np.array(model.pixel_std)
    return pixels.astype(np.float32).transpose(0, 3, 1, 2)


def _hugging_face(folder: Path, model: CLIP, seen: Probe) -> tuple[Answers, str]:
    import torch
    import transformers

    with _quiet(transformers), torch.no_grad():
        theirs = _hugging_face_class(folder).from_pretrained(folder).eval()
        # The two parts of CLIPProcessor, which would ask whether to trust the folder's code.
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        ids = tokenizer(list(seen.captions), padding="max_length", truncation=True, return_tensors="pt")
        pixels = processor(seen.pictures, return_tensors="pt")["pixel_values"]
        found = theirs(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            pixel_values=torch.from_numpy(normalised(model, seen)),
        )
    pad = theirs.config.text_config.pad_token_id
    _check_inputs(model, seen, ids["input_ids"].numpy(), pixels.numpy(), pad, levels=1)  # its offsets round otherwise
    answers = Answers(*(tensor.numpy() for tensor in (found.image_embeds, found.text_embeds, found.logits_per_image)))
    return answers, f"transformers {transformers.__version__}, ids and pixels compared too"


def _hugging_face_class(folder: Path) -> Any:
    if json.loads((folder / huggingface.CONFIG).read_text())["model_type"] == huggingface.OWN_TYPE:
        from harmopower.interop.modeling_harmopower import HarmopowerModel  # the same file as in the folder

        return HarmopowerModel
    import transformers

    return transformers.CLIPModel


@contextlib.contextmanager
def _quiet(transformers):
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _open_clip(folder: Path, model: CLIP, seen: Probe) -> tuple[Answers, str]:
    import torch

    try:
        from harmopower.interop import torchvision_stand_in  # imports torch

        library = torchvision_stand_in.import_open_clip()
    except ImportError as error:
        theirs, how = _plain(folder), f"plain PyTorch with OpenCLIP's layout; open_clip itself: {error}"
        ids = torch.from_numpy(seen.ids).long()
    else:
        theirs, _, preprocess = library.create_model_and_transforms(f"local-dir:{folder}")
        ids = library.get_tokenizer(f"local-dir:{folder}")(list(seen.captions))
        pixels = torch.stack([preprocess(picture) for picture in seen.pictures]).numpy()
        pad = json.loads((folder / open_clip.CONFIG).read_text())["model_cfg"]["text_cfg"]["pad_id"]
        _check_inputs(model, seen, ids.numpy(), pixels, pad, levels=0)
        how = f"open_clip {library.__version__}, ids and pixels compared too"
    with torch.no_grad():
        theirs.eval()
        image = theirs.encode_image(torch.from_numpy(normalised(model, seen))).numpy()
        bias = 0.0 if theirs.logit_bias is None else theirs.logit_bias.numpy()
        return _answers(image, theirs.encode_text(ids).numpy(), theirs.logit_scale.exp().numpy(), bias), how


def _plain(folder: Path) -> Any:  # a torch module, of which types know no methods
    from safetensors import torch as tensors

    from harmopower.interop.torch_reference import PlainCLIP

    model = PlainCLIP(json.loads((folder / open_clip.CONFIG).read_text())["model_cfg"])
    model.load_state_dict(tensors.load_file(folder / open_clip.WEIGHTS))
    return model


def _check_inputs(model: CLIP, seen: Probe, ids: np.ndarray, pixels: np.ndarray, pad_id: int, levels: int) -> None:
    """The exported tokenizer's ids are ours up to padding, and its pixels are ours to so many grey levels."""
    place, end = np.arange(ids.shape[1]), (seen.ids == model.eot_id).argmax(axis=1)[:, None]
    expected = np.where(place <= end, seen.ids, pad_id)
    for caption, row, right in zip(seen.captions, ids, expected, strict=True):
        if not np.array_equal(row, right):
            raise ConversionError(
                f"the exported tokenizer gives other ids for {caption[:40]!r}: {row[:12]} for {right[:12]}"
            )
    grey = 255 * np.array(model.pixel_std)[:, None, None]
    apart = _distance(pixels * grey, normalised(model, seen) * grey)
    if not apart <= levels + 0.01:  # of rounding
        raise ConversionError(f"the exported preprocessing differs by {apart:.1f} grey levels; {levels} are allowed")
