"""`tools.prepare check`: looks at every record of a data set, and for images that several of its splits share.

Images count as the same where their bytes are. Copies that were encoded anew pass unseen: against those, leave out ids
(`--exclude`) when the data set is made.
"""

import argparse
import array
import collections
from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
from pathlib import Path

import numpy as np

from harmopower.data import images, orphans, records
from harmopower.data.preparing import progress
from harmopower.errors import CommandError, RecordError

_RANGE = 2_000  # records that a process checks at once
_SHOWN = 20
_DATA_ERROR = 65


def add_command(commands) -> None:
    """Adds the command to the sub-parsers of argparse."""
    parser = commands.add_parser(
        "check",
        help="check every record of a prepared data set, and its splits for shared images",
        description=__doc__,
        epilog="example:\n  python -m tools.prepare check --data data/photos --workers 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a prepared data set")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine (default %(default)s)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="a try with the first N records of a split")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints what is wrong; nothing is changed.

    Raises:
      CommandError: a record is bad, or splits share an image; exit code 65.
    """
    for name, least in (("workers", 1), ("limit", 0)):
        if getattr(options, name) < least:
            raise CommandError(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    hashes, bad = {}, 0
    for split, size in records.splits(options.data).items():
        count = min(size, options.limit or size)
        problems, hashes[split] = _check(options.data, split, count, options.workers)
        for code, text in problems[:_SHOWN]:
            print(f"{split}: {code}: {text}")
        reasons = ", ".join(f"{code} {n}" for code, n in collections.Counter(code for code, _ in problems).items())
        same = count - len(np.unique(hashes[split]))
        print(f"{split}: {count} records, {len(problems)} problems ({reasons or 'none'}), {same} images again")
        bad += len(problems)
    shared = sum(_shared(options.data, hashes, *pair) for pair in itertools.combinations(hashes, 2))
    if bad or shared:
        raise CommandError(f"{options.data}: {bad} problems, {shared} images in several splits", _DATA_ERROR)


def _check(directory: Path, split: str, count: int, workers: int) -> tuple[list[tuple[str, str]], np.ndarray]:
    """What is wrong with the first `count` records of a split, and the hashes of their images."""
    ranges = [(str(directory), split, start, min(start + _RANGE, count)) for start in range(0, count, _RANGE)]
    size = records.fingerprint(directory, split)["bytes"] // records.splits(directory)[split]
    problems, hashes = [], array.array("Q")
    with (
        progress.Progress(split, size * count, 0, len(ranges), 0) as shown,
        _mapping(min(workers, len(ranges))) as mapping,
    ):
        for found, made in mapping(check_range, ranges):
            problems += found
            hashes.extend(made)
            shown.advance(size * len(made), len(made))
    return problems, np.asarray(hashes)


@contextlib.contextmanager
def _mapping(workers: int) -> Iterator[Callable]:
    """`map`, in processes if there is more than one."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, orphans.end_with_parent) as pool:
        yield pool.map


def check_range(task: tuple[str, str, int, int]) -> tuple[list[tuple[str, str]], array.array]:
    """The problems of (directory, split, first, last + 1) as (code, text), and 8 bytes of hash for each image."""
    directory, split, start, stop = task
    source = records.read(directory, split)
    problems, hashes = [], array.array("Q")
    for index in range(start, stop):
        example = source[index]
        where = f"record {example['id']}"
        problems += [(problem.code, f"{where}: {problem.text}") for problem in records.examine(example)]
        try:
            images.decode(example["image"])
        except RecordError as error:
            problems.append(("image_broken", f"{where}: {error}"))
        hashes.append(int.from_bytes(hashlib.sha256(example["image"]).digest()[:8], "little"))
    return problems, hashes


def _shared(directory: Path, hashes: dict[str, np.ndarray], one: str, other: str) -> int:
    """Prints which images two splits share and returns their number."""
    shared, first, second = np.intersect1d(hashes[one], hashes[other], return_indices=True)
    if len(shared):
        sources = records.read(directory, one), records.read(directory, other)
        for a, b in list(zip(first, second, strict=True))[:_SHOWN]:
            print(f"the same image: {one} {sources[0][int(a)]['id']} and {other} {sources[1][int(b)]['id']}")
        print(f"{one} and {other} share {len(shared)} images")
    return len(shared)
