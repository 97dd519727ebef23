"""The lines of the README that load an exported model in PyTorch: taken from the file and run as they stand."""

from pathlib import Path
import re

from interop_models import nested, random_params, settings, tokenizer, write_export
import jax
import libraries  # noqa: F401
import numpy as np
from PIL import Image

from harmopower.interop import proof

README = Path(__file__).parents[2] / "README.md"
HEADING = "Load the model in PyTorch"


def lines(library: str) -> str:
    """The Python block under the heading that imports from that library."""
    section = README.read_text().partition(f"## {HEADING}\n")[2].partition("\n## ")[0]
    (found,) = [block for block in re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S) if library in block]
    return found


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    """In a folder that has nothing but an export where the quickstart puts it; the best caption is our model's too."""
    code = lines("transformers")
    config = settings("tiny", 64, 32, pool="mean")
    flat = random_params(config)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    model = write_export(tmp_path / "runs" / "quickstart" / "export", "huggingface", config, flat)
    monkeypatch.chdir(tmp_path)
    assert "harmopower" not in code.replace("modeling_harmopower.py", "")
    seen = {}
    exec(compile(code, "README.md", "exec"), seen)
    assert type(seen["model"]).__module__.startswith("transformers_modules.")
    best = our_choice(model, nested(flat), seen["image"], seen["captions"])
    assert capsys.readouterr().out.strip().splitlines()[-1] == best


def our_choice(model, params, image, captions):
    pixels = np.asarray(image.convert("RGB").resize((model.image_size,) * 2, 3))[None]
    ids = tokenizer().encode_batch(captions, model.context_length)[0]
    image, text, _ = jax.device_get(proof.features(model, params, pixels, ids))
    return captions[int(np.argmax(text.pooled / np.linalg.norm(text.pooled, axis=1, keepdims=True) @ image.pooled[0]))]


def test_the_lines_for_open_clip_run(tmp_path, monkeypatch, capsys):
    config = settings("tiny", 64, 32, resize_mode="shortest")
    flat = random_params(config)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    model = write_export(tmp_path / "runs" / "mine" / "open_clip", "open_clip", config, flat)
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec(compile(lines("open_clip"), "README.md", "exec"), seen)
    square = Image.new("RGB", (model.image_size,) * 2, (220, 40, 40))
    assert capsys.readouterr().out.strip() == our_choice(model, nested(flat), square, seen["captions"])
