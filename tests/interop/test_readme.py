"""The lines of the README that load an exported model in PyTorch: taken from the file and run as they stand."""

from pathlib import Path
import re

from interop_models import nested, random_params, settings, tokenizer, write_export
import jax
import libraries  # noqa: F401
import numpy as np

from harmopower.interop import proof

README = Path(__file__).parents[2] / "README.md"
HEADING = "Load the model in PyTorch"


def lines() -> str:
    """The first Python block under the heading."""
    found = re.search(rf"^#+ {HEADING}$.*?^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no Python block under the heading {HEADING!r}"
    return found[1]


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    """In a folder that has nothing but an export where the quickstart puts it; the best caption is our model's too."""
    code = lines()
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
