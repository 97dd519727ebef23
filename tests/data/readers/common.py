"""What the tests of the readers share: a small photograph, and the way from a command line to records."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from harmopower.data import records
from tools import prepare


def photo(seed: int = 0, size: tuple[int, int] = (20, 16), kind: str = "JPEG") -> bytes:
    """An encoded image of noise; `size` is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def run(output: Path, name: str, *options) -> int:
    """Runs `tools.prepare NAME` in this process; returns its exit code."""
    return prepare.main([name, "--output", str(output), "--vocab-size", "300", *map(str, options)])


def examples(output: Path, split: str = "train") -> list[dict]:
    """The records of a split, in order."""
    return list(records.read(output, split))


def reasons(output: Path) -> dict[str, int]:
    """How many samples were left out, by reason."""
    return json.loads((Path(output) / "prepared.json").read_text())["left_out"]
