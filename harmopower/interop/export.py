"""A trained model as a folder that OpenCLIP or Hugging Face loads without our code."""

from collections.abc import Callable

from harmopower.data.tokenize import Tokenizer
from harmopower.interop import card, formats, huggingface, names, open_clip, proof, tokenizer_files, weights
from harmopower.models import clip
from harmopower.objectives import total

FORMATS = {"open_clip": open_clip, "huggingface": huggingface}


def exported_model(config, tokenizer: Tokenizer) -> clip.CLIP:
    """The model of a run as it is exported: float32, without what only serves training's speed.

    Raises:
      ConfigError: the config is no model.
    """
    config = config.copy_and_resolve_references()
    config.model.update(dict(dtype="float32", remat="none", attention="xla", dense="full"))
    return clip.from_config(config, tokenizer.vocab_size, tokenizer.eot_id, total.scales(config.objective))


def check_format(name: str, model: clip.CLIP, resize_mode: str) -> None:
    """Raises ConversionError where a format cannot express a model or its images; asked before weights are read."""
    if name not in FORMATS:
        raise weights.ConversionError(f"--format {name!r} is none of {', '.join(FORMATS)}")
    if resize_mode == "letterbox":
        raise weights.ConversionError(
            "config.data.resize_mode is letterbox, which neither format's preprocessing has: OpenCLIP pads around the "
            "image (its resize_mode longest), Hugging Face's CLIPImageProcessor not at all. tools.export --resize-mode "
            "squash or shortest exports the weights with that preprocessing, with which they were not trained"
        )
    if name == "huggingface":
        huggingface.refuse(model)
    if name == "open_clip":
        open_clip.refuse(formats.of_model(model, resize_mode))


def export(
    name: str,
    model: clip.CLIP,
    load: Callable,
    tokenizer: Tokenizer,
    config,
    output,
    *,
    evaluation: dict | None = None,
    resize_mode: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Writes the folder and proves it; it appears whole or not at all.

    One copy of the weights is in memory at a time: the tensors are written one by one, our model answers the proof's
    questions, and its parameters are let go before PyTorch loads the folder.

    Args:
      name: `open_clip` or `huggingface`.
      model: from `exported_model`.
      load: gives the step and its parameters (nested, unboxed); called once, so that nobody else holds them.
      config: the run's config, for the card.
      evaluation: the content of `eval.json`, for the card.
      resize_mode: of the folder's preprocessing; empty: the run's.
      say: told what is left out and what the proof found.

    Raises:
      ConversionError: the format cannot express the model, the proof fails, or `output` holds something else.
    """
    resize_mode = resize_mode or config.data.resize_mode
    check_format(name, model, resize_mode)
    layout, facts = FORMATS[name], formats.of_model(model, resize_mode)
    weights.check_output(output)
    step, params = load()
    with weights.new_folder(output, {"format": name, "step": step}) as folder:
        left_out = _write_weights(folder / layout.WEIGHTS, layout.RULES, params)
        seen = proof.probe(model, tokenizer, facts.resize_mode)
        expected = proof.ours(model, params, seen)
        del params
        tokenizer_files.write(folder, tokenizer, model.context_length)
        pad_id = tokenizer_files.pad_id(tokenizer)
        if layout is open_clip:
            kind = name
            open_clip.write_config(folder, model, facts, pad_id)
        else:
            kind = "own" if huggingface.needs_own_code(facts, model.loss) else name
            huggingface.write_config(folder, model, facts, tokenizer.sot_id, pad_id)
        (folder / "README.md").write_text(card.text(kind, model, config, facts, step, evaluation, left_out))
        for parameter in left_out:
            say(f"{parameter} is not exported: it only serves training")
        say(proof.check(folder, layout, model, expected, seen))
    say(f"{output}: step {step} as {name}")


def _write_weights(path, rules, params) -> list[str]:
    """Writes the file and returns the names of ours that it leaves out."""
    flat = names.flat(params)
    left_out = sorted(flat.keys() - {rule.ours for rule in rules})
    unknown = [name for name in left_out if not names.is_scalar_of_a_loss(name)]
    if unknown:
        raise weights.ConversionError(f"no format has a place for {', '.join(unknown)}")
    weights.write_safetensors(path, names.their_tensors(rules, flat))
    return left_out
