"""The model card of an exported folder: how it was trained, on what, and what was measured."""

import json

from harmopower import config as configs
from harmopower.interop.formats import Facts, pixels
from harmopower.models.clip import CLIP

_LOAD = {
    "open_clip": """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")""",
    "huggingface": """from transformers import CLIPModel, CLIPProcessor
model = CLIPModel.from_pretrained("FOLDER")
processor = CLIPProcessor.from_pretrained("FOLDER")""",
    "own": """from transformers import AutoModel, CLIPProcessor
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)  # its code is modeling_harmopower.py
processor = CLIPProcessor.from_pretrained("FOLDER", trust_remote_code=True)""",
}
_LIBRARY = {"open_clip": "open_clip", "huggingface": "transformers", "own": "transformers"}


def text(kind: str, model: CLIP, config, facts: Facts, step: int, evaluation: dict | None, left_out: list[str]) -> str:
    """The card as Markdown.

    Args:
      kind: `open_clip`, `huggingface`, or `own` for a folder with its own modelling file.
      evaluation: what `eval.json` holds, None where the run was not evaluated.
      left_out: our parameters that the format has no place for.
    """
    vision, text_size = model.preset.vision, model.preset.text
    front = (
        f"---\nlibrary_name: {_LIBRARY[kind]}\npipeline_tag: zero-shot-image-classification\n"
        "tags: [clip, harmopower]\n---\n"
    )
    model_rows = [
        (
            "image tower",
            f"ViT, patch {model.preset.patch_size}, {pixels(model.shape)}, width {vision.width}, "
            f"{vision.layers} layers, {vision.heads} heads, pool {facts.pool}",
        ),
        (
            "text tower",
            f"width {text_size.width}, {text_size.layers} layers, {text_size.heads} heads, "
            f"{model.context_length} tokens, {model.vocabulary} ids, pool {facts.text_pool}",
        ),
        ("shared space", f"{model.preset.shared} channels"),
        ("activation", facts.activation),
        ("LayerNorm epsilon", facts.layer_norm_epsilon),
        (
            "preprocessing",
            f"RGB, bicubic, {facts.resize_mode}, mean {list(facts.pixel_mean)}, std {list(facts.pixel_std)}",
        ),
        ("not exported", ", ".join(left_out) or "nothing"),
    ]
    return "\n".join(
        [
            front,
            f"# CLIP {config.model.preset}, step {step}\n",
            "Trained with harmopower (JAX) and exported to PyTorch.\n",
            f"```python\n{_LOAD[kind]}\n```\n",
            "## Model\n",
            _table(model_rows),
            "## Data\n",
            _table([(f"data.{key}", config.data[key]) for key in ("source", "split", "regions", "min_crop_area")]),
            "## Objectives\n",
            _table([(name, f"weight {config.objective[name].weight}") for name in configs.OBJECTIVES]),
            "## Evaluation\n",
            _evaluation(step, evaluation),
            "## Training configuration\n",
            f"```json\n{configs.to_json(config)}```\n",
        ]
    )


def _table(rows: list[tuple]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def _evaluation(step: int, found: dict | None) -> str:
    if not found:
        return "This run was not evaluated.\n"
    other = "" if found["step"] == step else f" These are the results of step {found['step']}, not of the exported one."
    rows = [
        (name, f"{value:.4f}" if isinstance(value, float) else json.dumps(value))
        for name, value in sorted(found["metrics"].items())
    ]
    return f"Measured at step {found['step']}.{other}\n\n" + _table(rows)
