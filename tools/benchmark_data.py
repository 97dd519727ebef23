"""What the data cost: `python -m tools.benchmark data`. Every part of it is an entry of PARTS."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
import itertools
import multiprocessing
import os
from pathlib import Path
import sys
import tempfile
import time
from typing import NamedTuple

import grain
import numpy as np
from rich.console import Console
from rich.table import Table

from harmopower.data import files, pipeline, records, shards, tokenize
from harmopower.data.annotations import overlays
from tools import benchmark_filters, benchmark_order, benchmark_rows
from tools.benchmark_prepare import measure_prepare, show_prepare
from tools.photographs import CAPTIONS, make_example, photograph_data, photographs

_SETTLED, _SETTLED_TICKS = 3.0, 20  # workers that use less processor time than this in so many seconds are idle


class Part(NamedTuple):
    """One thing to measure."""

    help: str
    measure: Callable[[argparse.Namespace], dict]
    show: Callable[[dict, Console], None]


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--photographs", type=int, default=256, help="different photographs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, in which the contenders take turns")
    parser.add_argument("--samples", type=int, default=512, help="samples of the tar, for prepare")
    parser.add_argument("--batch", type=int, default=512, help="rows of the host's batch, for first_batch and order")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, for first_batch")
    parser.add_argument("--threads", type=int, default=2, help="threads of each of them, for first_batch")
    parser.add_argument("--image-size", type=int, default=224, help="side of the image of a row")
    benchmark_rows.add_arguments(parser)
    benchmark_order.add_arguments(parser)


def measure(options: argparse.Namespace) -> dict:
    """Measures every part that was asked for."""
    settings = {name: value for name, value in vars(options).items() if name not in ("json", "subcommand")}
    return {"settings": settings} | {name: PARTS[name].measure(options) for name in options.parts}


def show(result: dict, console: Console):
    for name in PARTS:
        if name in result:
            PARTS[name].show(result[name], console)


# --- first_batch ---------------------------------------------------------------------------------------------------


class GatedSource:
    """A source whose readers wait for each other at their first record, so that the start of processes is not counted.

    When the gate opened is in the file `opened` of the folder, by the clock that all processes share.
    """

    def __init__(self, source, folder: str, readers: int):
        self._source, self._folder, self._readers, self._through = source, folder, readers, False

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index) -> records.Example:
        if not self._through:
            self._wait()
        return self._source[index]

    def _wait(self):
        Path(self._folder, f"reader-{os.getpid()}").touch()
        while len(list(Path(self._folder).glob("reader-*"))) < self._readers:
            time.sleep(0.001)
        self._through = True
        Path(self._folder, "opened").write_text(str(time.perf_counter()))


def whole_batches(pipe: pipeline.Pipeline) -> grain.IterDataset:
    """The form before slices: an element is the host's whole batch; `threads + 2` and 2 a worker are made ahead."""
    ahead = grain.ReadOptions(num_threads=pipe._threads, prefetch_buffer_size=pipe._threads + 2)
    batches = grain.MapDataset.range(sys.maxsize).map(pipe._builder).to_iter_dataset(ahead)
    return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=pipe._workers, per_worker_buffer_size=2))


def measure_first_batch(options: argparse.Namespace) -> dict:
    """Seconds to the first batch after all workers have started, and MiB in flight when nothing is taken any more."""
    runs = {form: {"seconds": []} for form in ("whole batches", "slices")}
    with (
        photograph_data(options.photographs, (500, 375)) as (source, tokenizer),
        photograph_data(8, (32, 32)) as (quick, _),  # to fill the buffers; a row's size is that of the model's images
    ):
        for _, form in itertools.product(range(options.repeats), runs):
            with _first_batch(source, tokenizer, options, form, options.image_size) as seconds:
                runs[form]["seconds"].append(seconds)
        for form in runs:  # once: buffers hold what they hold, and filling them takes minutes
            with _first_batch(quick, tokenizer, options, form, options.image_size):
                full = _settled_mib()
            with _first_batch(quick, tokenizer, options, form, 8):  # the same processes, without the pixels
                runs[form]["mib_in_flight"] = full - _settled_mib()
    medians = {
        form: {"seconds": float(np.median(found["seconds"])), "mib_in_flight": found["mib_in_flight"]}
        for form, found in runs.items()
    }
    old, new = medians.values()
    return {"runs": runs, "medians": medians, "ratios": {key: new[key] / old[key] for key in new}}


@contextlib.contextmanager
def _first_batch(source, tokenizer, options, form: str, image_size: int) -> Iterator[float]:
    """Takes one batch, gives the seconds it took; the workers go on as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = pipeline.Pipeline(
            GatedSource(source, folder, options.workers),
            tokenizer,
            seed=0,
            batch_size=options.batch,
            workers=options.workers,
            threads=options.threads,
            rows_per_element=options.batch if form == "whole batches" else 32,
            image_size=image_size,
            context_length=77,
            max_phrases=20,
            max_boxes=10,
            min_crop_area=0.9,
        )
        pipeline._parse_flags()
        batches = iter(whole_batches(pipe)) if form == "whole batches" else pipe.iterate()
        with contextlib.closing(batches):
            batch = next(batches)
            yield time.perf_counter() - float(Path(folder, "opened").read_text())
            del batch  # held until here: it counts as in flight


def _settled_mib() -> float:
    """MiB of this process and its workers, shared pages counted once, when the workers have nothing left to do."""
    pids = [child.pid for child in multiprocessing.active_children()]
    busy, since = None, time.perf_counter()
    while time.perf_counter() - since < _SETTLED:
        time.sleep(_SETTLED / 5)
        now = sum(_ticks(pid) for pid in pids)
        if busy is None or now > busy + _SETTLED_TICKS:
            busy, since = now, time.perf_counter()
    return sum(_own_mib(pid) for pid in (os.getpid(), *pids))


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # user and system time, in hundredths of a second


def _own_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def show_first_batch(result: dict, console: Console):
    table = Table("form", "s to the first batch", "MiB in flight", title="first batch")
    for form, found in result["runs"].items():
        seconds = ", ".join(f"{each:.2f}" for each in found["seconds"])
        table.add_row(form, seconds, f"{found['mib_in_flight']:.0f}")
    console.print(table)
    console.print(
        "slices over whole batches, medians: " + ", ".join(f"{k} {v:.2f}" for k, v in result["ratios"].items())
    )


# --- overlays ------------------------------------------------------------------------------------------------------


def measure_overlays(options: argparse.Namespace) -> dict:
    """Processor seconds a row, with the phrases and regions in the records and with the same ones in two overlays."""
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(options.photographs, (256, 192))
        records.write(folder, {"train": (make_example(i, image) for i, image in enumerate(images))}, name="photographs")
        plain = records.read(folder, "train")
        for name in ("phrases", "regions"):
            _lay_beside(folder, name, plain)
        sources = {"records": plain, "two overlays": overlays.read(folder, "train", "phrases,regions")}
        tokenizer = tokenize.Tokenizer.train(CAPTIONS * 9, 400)
        seconds = {name: [] for name in sources}
        for _, (name, source) in itertools.product(range(options.repeats), sources.items()):
            seconds[name].append(_seconds_per_row(source, tokenizer, options.image_size))
    medians = {name: float(np.median(found)) for name, found in seconds.items()}
    return {"seconds_per_row": seconds, "medians": medians, "ratio": medians["two overlays"] / medians["records"]}


def _lay_beside(folder, name: str, source) -> None:
    place = overlays.folder(folder, name)
    place.mkdir(parents=True)
    with shards.writing(place / overlays.line_file("train")) as writer:
        for example in source:
            checksum = overlays.checksum(example["captions"])
            writer.write(overlays.encode(example["id"], checksum, {name: example[name]}))
    info = {"modes": {name: "replace"}, "limit": 0, "splits": {"train": {"examples": len(source)}}}
    files.write_json(place / overlays.INFO, info)


def _seconds_per_row(source, tokenizer, image_size: int) -> float:
    pipe = pipeline.Pipeline(
        source,
        tokenizer,
        seed=0,
        batch_size=32,
        image_size=image_size,
        context_length=77,
        max_phrases=20,
        max_boxes=10,
        min_crop_area=0.9,
    )
    steps = max(1, len(source) // 32)
    started = time.thread_time()
    for step in range(steps):
        pipe.batch(step)
    return (time.thread_time() - started) / (32 * steps)


def show_overlays(result: dict, console: Console):
    for name, seconds in result["medians"].items():
        console.print(f"{name}: {1e3 * seconds:.3f} ms of processor time a row")
    console.print(f"two overlays over the same in the records: {result['ratio']:.3f}")


PARTS = {
    "rows": Part(
        "rows of the training pipeline a second and core, against bare decode-and-resize",
        benchmark_rows.measure_rows,
        benchmark_rows.show_rows,
    ),
    "filters": Part(
        "filters of data.resize_filter: images a second, and how far off the default's pixels",
        benchmark_filters.measure_filters,
        benchmark_filters.show_filters,
    ),
    "open": Part(
        "time to the first record of a large data set, and memory",
        benchmark_rows.measure_open,
        benchmark_rows.show_open,
    ),
    "order": Part(
        "files that a batch reads from and records read a second, data.shuffle=global against window",
        benchmark_order.measure_order,
        benchmark_order.show_order,
    ),
    "overlays": Part(
        "a row with two overlays against one whose record has the same phrases and regions",
        measure_overlays,
        show_overlays,
    ),
    "first_batch": Part(
        "time to the first batch and memory in flight, slices of rows against whole batches",
        measure_first_batch,
        show_first_batch,
    ),
    "prepare": Part(
        "preparing a tar with re-encoding, against a bare loop that decodes, resizes and encodes",
        measure_prepare,
        show_prepare,
    ),
}
