"""Small photographs, files of JSON lines, and the hash of a whole folder."""

import hashlib
import io
import json
from pathlib import Path

from PIL import Image

from tools import prepare


def picture(number: int, size=(9, 7), kind: str = "PNG") -> bytes:
    """An image whose pixels tell its number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 90)).save(buffer, kind)
    return buffer.getvalue()


def photographs(folder: Path, count: int, **fields) -> Path:
    """Writes images and `own.jsonl`, a line for each; returns that file."""
    lines = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))
        caption = {"image": f"{number}.png", "caption": f"photo {number} – “dog” näher, 犬"}
        lines.append(json.dumps(caption | fields, ensure_ascii=False))
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "own.jsonl"


def run(path: Path, *more, output="out") -> int:
    """`tools.prepare jsonl` with a small vocabulary; returns its exit code."""
    arguments = ["jsonl", "--input", path, "--output", path.parent / output, "--vocab-size", 300, *more]
    return prepare.main([str(argument) for argument in arguments])


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file under a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
