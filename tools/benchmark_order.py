"""What each kind of `data.shuffle` asks of a disk: files that a batch touches, and how fast its records are read."""

import argparse
from pathlib import Path
import tempfile
import time
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from harmopower.data import order, reading, records
from tools.benchmark_rows import write_large

_BATCHES = 20  # of a round


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--files", type=int, default=1000, help="files that the records are in, for order")


def measure_order(options: argparse.Namespace) -> dict:
    """Files a batch reads from and opens, and records read a second, for each kind of shuffling.

    The records are small and in the page cache: what is measured is opening and seeking. A disk adds its own.
    """
    runs = {shuffle: [] for shuffle in order.SHUFFLES}
    with tempfile.TemporaryDirectory() as folder:
        write_large(folder, options.records, -(-options.records // options.files))
        count = len(list(Path(folder).glob("*.array_record*")))
        for turn in range(options.repeats):
            for shuffle, found in runs.items():
                files = records.read(folder, "train")._raw
                found.append(_read(files, order.Order(len(files), turn, shuffle), options.batch))
    medians = {
        shuffle: {key: float(np.median([run[key] for run in found])) for key in found[0]}
        for shuffle, found in runs.items()
    }
    return {"files": count, "runs": runs, "medians": medians}


def _read(files: reading.RecordFiles, places: order.Order, batch: int) -> dict:
    batches = np.array([places[place] for place in range(_BATCHES * batch)]).reshape(_BATCHES, batch).tolist()
    touched = [len({files.place(index)[0] for index in one}) for one in batches]
    with mock.patch.object(reading, "_File", wraps=reading._File) as opened:
        started = time.perf_counter()
        for one in batches:
            for index in one:
                files[index]
        seconds = time.perf_counter() - started
    return {
        "files_touched": float(np.mean(touched)),
        "files_opened": opened.call_count / _BATCHES,
        "records_per_second": _BATCHES * batch / seconds,
    }


def show_order(result: dict, console: Console):
    table = Table(
        "data.shuffle", "files a batch reads from", "and opens", "records/s", title=f"{result['files']} files"
    )
    for shuffle, found in result["runs"].items():
        for run in found:
            cells = f"{run['files_touched']:.0f}", f"{run['files_opened']:.0f}", f"{run['records_per_second']:.0f}"
            table.add_row(shuffle, *cells)
    console.print(table)
