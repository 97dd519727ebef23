"""How fast the filters of `data.resize_filter` are, and how far off the default's pixels; two more for comparison."""

import argparse
from collections.abc import Callable
import io
import time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from harmopower.data import images, transforms
from tools.photographs import photographs

_SIZES = ((500, 375), (341, 256), (1024, 768))


def _switch(name: str) -> Callable[[bytes, int], np.ndarray]:
    return lambda data, side: transforms.crop_and_resize(images.decode(data), transforms.WHOLE, (side, side), name)


def _reduced(data: bytes, side: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=1.0))


def _draft(data: bytes, side: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (side, side))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


FORMS = {name: _switch(name) for name in ("bicubic", "hamming", "bilinear", "box")}
FORMS |= {"bicubic, reducing_gap=1": _reduced, "draft, then bicubic": _draft}


def measure_filters(options: argparse.Namespace) -> dict:
    """Images a second of processor time, decoding included, and how far a grey level is from that of bicubic."""
    found = {}
    for width, height in _SIZES:
        encoded = photographs(min(options.photographs, 48), (width, height))
        seconds, pixels = {name: [] for name in FORMS}, {}
        for _ in range(options.repeats):
            for name, form in FORMS.items():
                started = time.thread_time()
                pixels[name] = np.stack([form(data, options.image_size) for data in encoded])
                seconds[name].append(time.thread_time() - started)
        off = {name: np.abs(made.astype(int) - pixels["bicubic"]) for name, made in pixels.items()}
        found[f"{width} x {height}"] = {
            name: {
                "per_second": len(encoded) / float(np.median(seconds[name])),
                "mean": float(off[name].mean()),
                "per_mille": float(np.percentile(off[name], 99.9)),
                "most": int(off[name].max()),
            }
            for name in FORMS
        }
    return found


def show_filters(result: dict, console: Console):
    for size, forms in result.items():
        table = Table("filter", "images/s", "times", "levels off: mean", "one in a thousand", "most", title=size)
        for name, row in forms.items():
            times = row["per_second"] / forms["bicubic"]["per_second"]
            cells = (f"{row['per_second']:.0f}", f"{times:.2f}", f"{row['mean']:.2f}", f"{row['per_mille']:.0f}")
            table.add_row(name, *cells, str(row["most"]))
        console.print(table)
