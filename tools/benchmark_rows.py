"""Rows of the training pipeline against bare decode-and-resize, and what opening a large data set costs."""

import argparse
import collections
import contextlib
import io
import os
from pathlib import Path
import tempfile
import time
from unittest import mock

from array_record.python import array_record_module
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from harmopower.data import images, order, pipeline, records, shards, tokenize, transforms
from harmopower.data.reading import RecordFiles
from tools.photographs import photograph_data

SIZES = ((500, 375), (341, 256))
STAGES = {  # the rest is the order, checking, and linking phrases and regions
    "read": (RecordFiles, "__getitem__"),
    "parse": (records, "parse"),
    "decode": (images, "decode"),
    "resize": (transforms, "crop_and_resize"),
    "tokenise": (tokenize.Tokenizer, "encode"),
    "collate": (pipeline, "_put"),
}
_ROWS = 64  # of a turn
_SHARD_RECORDS = 20_000


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--records", type=int, default=1_000_000, help="records of the large data set, for open")


def measure_rows(options: argparse.Namespace) -> dict:
    """Rows a second of processor time, one thread, and the share of each stage, for photographs of two sizes."""
    return {f"{width} x {height}": _measure_size((width, height), options) for width, height in SIZES}


def _measure_size(size: tuple[int, int], options: argparse.Namespace) -> dict:
    with photograph_data(options.photographs, size) as (source, tokenizer):
        pipe = pipeline.Pipeline(
            Repeated(source, options.records),
            tokenizer,
            seed=0,
            batch_size=_ROWS,
            image_size=options.image_size,
            context_length=77,
            max_phrases=20,
            max_boxes=10,
        )
        encoded = [example["image"] for example in source]
        seconds = []
        for turn in range(options.repeats * max(1, options.photographs // _ROWS) + 1):
            chosen = [pipe._builder.order[position][1] % len(encoded) for position in _positions(turn)]
            calls = [(form, [encoded[record] for record in chosen], options.image_size) for form in (bare, converted)]
            seconds.append([_seconds(*call) for call in [*calls, (pipe.batch, turn)]])
        seconds = np.array(seconds[1:]).T  # the first turn warms up
        stages, whole = _measure_stages(pipe, turns=seconds.shape[1])
    per_second = _ROWS / np.median(seconds, axis=1)
    return {
        "per_second": dict(zip(("bare", "converted", "rows"), per_second.tolist(), strict=True)),
        "ratio": dict(zip(("bare", "converted"), np.median(seconds[:2] / seconds[2], axis=1).tolist(), strict=True)),
        "shares": {name: stages[name] / whole for name in STAGES} | {"the rest": 1 - sum(stages.values()) / whole},
    }


class Repeated:
    """A few examples as if they were many, so that the order is computed as for a real data set."""

    def __init__(self, source, count: int):
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> records.Example:
        return self._source[index % len(self._source)]


def _positions(step: int) -> range:
    return range(step * _ROWS, (step + 1) * _ROWS)


def bare(encoded: list[bytes], image_size: int) -> None:
    """Decodes and resizes, and nothing else."""
    for data in encoded:
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC))


def converted(encoded: list[bytes], image_size: int) -> None:
    """The same with `convert("RGB")`, as preprocessing usually has it; for an RGB image that is a copy."""
    for data in encoded:
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image.convert("RGB").resize((image_size, image_size), Image.Resampling.BICUBIC))


def _seconds(function, *arguments) -> float:
    started = time.thread_time()
    function(*arguments)
    return time.thread_time() - started


def _measure_stages(pipe: pipeline.Pipeline, turns: int) -> tuple[collections.Counter, float]:
    spent = collections.Counter()
    with contextlib.ExitStack() as patches:
        for name, (owner, attribute) in STAGES.items():
            timed = _timed(getattr(owner, attribute), name, spent)
            patches.enter_context(mock.patch.object(owner, attribute, timed))
        whole = sum(_seconds(pipe.batch, turn) for turn in range(turns))
    return spent, whole


def _timed(function, name: str, spent: collections.Counter):
    def call(*arguments, **keywords):
        started = time.thread_time()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[name] += time.thread_time() - started

    return call


def show_rows(result: dict, console: Console):
    table = Table("", *result, title="one thread: rows a second of processor time, and what a row spends it on")
    rows = {
        "bare decode and resize": [f"{found['per_second']['bare']:.0f}" for found in result.values()],
        "the same with convert": [f"{found['per_second']['converted']:.0f}" for found in result.values()],
        "rows": [f"{found['per_second']['rows']:.0f}" for found in result.values()],
        "rows / bare": [f"{found['ratio']['bare']:.2f}" for found in result.values()],
        "rows / with convert": [f"{found['ratio']['converted']:.2f}" for found in result.values()],
    }
    for name in (*STAGES, "the rest"):
        rows[name] = [f"{found['shares'][name]:.1%}" for found in result.values()]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console.print(table)


# --- open ----------------------------------------------------------------------------------------------------------


def write_large(directory, count: int, examples_per_shard: int = _SHARD_RECORDS) -> None:
    """A data set of `count` records, quick to make: every shard is a link to the same file of small records."""
    directory, (whole, rest) = Path(directory), divmod(count, examples_per_shard)
    example = {"id": "0", "image": b"", "captions": ["a small record"], "phrases": [], "regions": [], "negatives": []}
    sizes = [examples_per_shard] * whole + [rest] * bool(rest)
    made = {}
    for name, size in zip(shards.final_names("large", "train", len(sizes)), sizes, strict=True):
        if size in made:
            os.link(made[size], directory / name)
            continue
        made[size] = directory / name
        writer = array_record_module.ArrayRecordWriter(str(made[size]), "group_size:1")
        for index in range(size):
            writer.write(records.serialise(example | {"id": str(index)}))
        writer.close()
    parts = [shards.Shard(name, "train", size, size * 100, "") for size in sizes]
    shards.write_info(directory, "large", {"train": parts}, {}, records.features())


def measure_open(options: argparse.Namespace) -> dict:
    """Seconds to open a data set of many records and look up the first, and MiB this process grows by."""
    found = {}
    for count in (options.records // 100, options.records):
        with tempfile.TemporaryDirectory() as folder:
            write_large(folder, count)
            records.read(folder, "train")  # what is imported and built once is not the data set's
            before, started = _resident_mib(), time.perf_counter()
            source = records.read(folder, "train")
            places = order.Order(len(source), seed=0)
            first = source[places[0]]["id"]
            seconds = time.perf_counter() - started
            found[str(count)] = {"seconds": seconds, "mib": _resident_mib() - before, "first": first}
    return found


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def show_open(result: dict, console: Console):
    table = Table("records", "s to the first record", "MiB", title="opening a data set")
    for count, found in result.items():
        table.add_row(count, f"{found['seconds']:.3f}", f"{found['mib']:.1f}")
    console.print(table)
