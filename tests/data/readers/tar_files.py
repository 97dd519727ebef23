"""Tars as crawlers and users write them, for the tests of their readers."""

import io
import json
from pathlib import Path
import tarfile


def write(path: Path, members) -> Path:
    """Writes (name, content) in their order; what is neither bytes nor text is written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else encoded(content)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encoded(content) -> bytes:
    """UTF-8 of a text, JSON of anything else."""
    return (content if isinstance(content, str) else json.dumps(content)).encode()
