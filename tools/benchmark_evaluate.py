"""Zero-shot classification of JPEGs, end to end, against decoding them as training does and the forward pass alone."""

import argparse
from concurrent.futures import ThreadPoolExecutor
import contextlib
import io
from pathlib import Path
import tarfile
import tempfile
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from harmopower import config as configs
from harmopower import runs
from harmopower.data import images, transforms
from harmopower.data.tokenize import Tokenizer
from harmopower.evaluation import running
from harmopower.evaluation.kept import Kept
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suites.zero_shot import ZeroShot
from tools.photographs import CAPTIONS, photographs

SIZE = (500, 375)
_DISTINCT = 200  # photographs; a set repeats them


class Remembering(Kept):
    """Class embeddings are made once, as an evaluation keeps them by their hash."""

    def __init__(self):
        super().__init__()
        self._classes: np.ndarray | None = None

    def classes(self, prompts, compute):
        if self._classes is None:
            self._classes = compute()
        return self._classes


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--images", type=int, default=2000, help="JPEGs of 500 x 375 pixels")
    parser.add_argument("--classes", type=int, default=1000, help="classes, one prompt each")
    parser.add_argument("--preset", default="tiny", help="model.preset")
    parser.add_argument("--image-size", type=int, default=224, help="data.image_size")
    parser.add_argument("--resize-mode", choices=("squash", "shortest"), default="squash", help="data.resize_mode")
    parser.add_argument("--batch", type=int, default=128, help="evaluation.batch_size")
    parser.add_argument("--threads", type=int, default=2, help="data.threads")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds; the parts take turns")


def measure(options: argparse.Namespace) -> dict:
    """Images a second of each part, and the evaluation's share of what decoding and forward pass allow together."""
    jpegs = photographs(min(options.images, _DISTINCT), SIZE)
    jpegs = [jpegs[number % len(jpegs)] for number in range(options.images)]
    config = _config(options)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), jpegs, options.classes)
        task = ZeroShot(Path(folder), Published("photographs", "", options.images))
        encoder, kept = _encoder(config), Remembering()
        # No view of the pixels matters to the forward pass.
        batch = np.zeros((encoder.share.count, options.image_size, options.image_size, 3), np.uint8)
        parts = {
            "evaluation": lambda: running.run_tasks({"photographs": task}, config, encoder, kept=kept),
            "decode": lambda: _decode(jpegs, options),
            "forward": lambda: [encoder.encode_pixels(batch) for _ in range(0, options.images, len(batch))],
        }
        seconds = {name: [] for name in parts}
        for _ in range(options.repeats + 1):
            for name, part in parts.items():
                started = time.perf_counter()
                part()
                seconds[name].append(time.perf_counter() - started)
    median = {name: float(np.median(values[1:])) for name, values in seconds.items()}  # the first round warms up
    return {
        "settings": {name: value for name, value in vars(options).items() if name not in ("json", "subcommand")},
        "images_per_second": {name: options.images / value for name, value in median.items()},
        "share": (median["decode"] + median["forward"]) / median["evaluation"],
    }


def _config(options: argparse.Namespace):
    config = configs.get_config()
    config.model.preset, config.data.image_size = options.preset, options.image_size
    config.data.resize_mode, config.evaluation.batch_size = options.resize_mode, options.batch
    config.data.threads, config.data.workers = options.threads, 0
    return config


def _encoder(config):
    tokenizer = Tokenizer.train(CAPTIONS, 300)
    model = runs.build_model(config, tokenizer)
    side = config.data.image_size
    arrays = jnp.zeros((1, side, side, 3), jnp.uint8), jnp.zeros((1, config.data.context_length), jnp.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), *arrays))["params"]
    return runs.make_encoder(config, model, params, tokenizer)


def _decode(jpegs: list[bytes], options: argparse.Namespace) -> None:
    """As a row of training is made: decoded, its window resized."""

    shape = options.image_size, options.image_size

    def decode(data: bytes) -> None:
        picture = images.decode(data)
        window = transforms.fixed_window(picture.size, shape, options.resize_mode)
        transforms.crop_and_resize(picture, window, shape)

    with ThreadPoolExecutor(options.threads) as pool:
        for _ in pool.map(decode, jpegs):
            pass


def _write(folder: Path, jpegs: list[bytes], classes: int) -> None:
    """A set in clip_benchmark's layout."""
    (folder / "test").mkdir()
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("".join(f"thing {number}\n" for number in range(classes)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    with contextlib.closing(tarfile.open(folder / "test" / "0.tar", "w")) as tar:
        for number, data in enumerate(jpegs):
            for ending, content in (("jpg", data), ("cls", b"%d" % (number % classes))):
                member = tarfile.TarInfo(f"s{number:07d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def show(result: dict, console: Console) -> None:
    table = Table("part", "images/s", title="{images} JPEGs, {preset} at {image_size}".format(**result["settings"]))
    for name, rate in result["images_per_second"].items():
        table.add_row(name, f"{rate:.1f}")
    console.print(table)
    console.print(f"evaluation / (decode and forward one after the other): {result['share']:.2f}")
