"""What preparing costs: `tools.prepare webdataset --shortest-side 256` against a bare loop over the same tar."""

import argparse
from collections.abc import Iterator
import contextlib
import io
import json
from pathlib import Path
import tarfile
import tempfile

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from harmopower.data import images, tokenize
from tools import prepare
from tools.measuring import take_turns
from tools.photographs import photographs

SIZES = {"500 x 375": (500, 375), "1024 x 768": (1024, 768), "341 x 256": (341, 256)}
SHORTEST_SIDE = 256
CAPTION = "a pagoda stands on a hill above a lake under a hazy sky, photograph {}"


def measure_prepare(options: argparse.Namespace) -> dict:
    """Images a second of both, by the clock and by processor time (of all threads), and prepare's over the loop's."""
    return {name: _measure(size, options) for name, size in SIZES.items()}


def _measure(size: tuple[int, int], options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        tar = write_tar(Path(folder, "00000.tar"), photographs(options.photographs, size), options.samples)
        tokenizer = Path(folder, "tokenizer.json")
        tokenize.Tokenizer.train([CAPTION] * 9, 300).save(tokenizer)
        calls = [(bare_loop, (tar,)), (prepare_once, (tar, Path(folder, "out"), tokenizer))]
        clock, processor = (options.samples / seconds for seconds in take_turns(calls, options.repeats))
    return {kind: _compared(rates) for kind, rates in (("clock", clock), ("processor", processor))}


def _compared(rates: np.ndarray) -> dict:
    """`rates` [repeats, 2]: of the loop and of prepare."""
    bare, prepared = np.median(rates, axis=0).tolist()
    return {"bare": bare, "prepare": prepared, "ratio": float(np.median(rates[:, 1] / rates[:, 0]))}


def write_tar(path: Path, encoded: list[bytes], count: int) -> Path:
    """A tar as img2dataset writes it, of so many samples that show these photographs in turn."""
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            caption = CAPTION.format(index)
            facts = {"key": f"{index:09d}", "caption": caption, "url": "", "status": "success", "exif": "{}"}
            _add(tar, f"{index:09d}.jpg", encoded[index % len(encoded)])
            _add(tar, f"{index:09d}.txt", caption.encode())
            _add(tar, f"{index:09d}.json", json.dumps(facts).encode())
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def prepare_once(tar: Path, output: Path, tokenizer: Path):
    """The whole command, in this process; one that did not do everything is an error."""
    arguments = ["--shortest-side", str(SHORTEST_SIDE), "--tokenizer", str(tokenizer), "--force"]
    if prepare.main(["webdataset", "--input", str(tar), "--output", str(output), *arguments]):
        raise RuntimeError("tools.prepare failed")


def bare_loop(tar: Path) -> int:
    """Reads, decodes, resizes and encodes, at reduced scale where JPEG allows it; returns the bytes made."""
    return sum(len(_bare(data)) for name, data in _members(tar) if name.endswith(".jpg"))


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for member in tar:
            yield member.name, tar.extractfile(member).read()


def _bare(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data))
    if min(image.size) <= SHORTEST_SIDE:
        image.load()
        return data
    image.draft("RGB", (SHORTEST_SIDE, SHORTEST_SIDE))
    scale = SHORTEST_SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=images.QUALITY)
    return buffer.getvalue()


def show_prepare(result: dict, console: Console):
    """A line for each size."""
    table = Table("photographs", "by", "bare loop, images/s", "prepare, images/s", "ratio", title="prepare, re-encoded")
    for size, found in result.items():
        for kind, rates in found.items():
            values = f"{rates['bare']:.0f}", f"{rates['prepare']:.0f}", f"{rates['ratio']:.2f}"
            table.add_row(size, kind, *values)
    console.print(table)
