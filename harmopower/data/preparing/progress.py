"""How far a job is: a bar on a terminal, a line a minute elsewhere."""

from collections.abc import Iterator, Sequence
import contextlib
import sys
import threading
import time
from typing import TypeVar

import rich.console
import rich.progress

_EVERY_SECONDS = 60
_Value = TypeVar("_Value")


def tracked(values: Sequence[_Value], what: str) -> Iterator[_Value]:
    """The values; how many of them have been taken is shown on stderr."""
    if sys.stderr.isatty():
        yield from rich.progress.track(values, what, console=rich.console.Console(stderr=True))
        return
    start = last = time.monotonic()
    for number, value in enumerate(values):
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS:
            last, rate = now, number / (now - start)
            left = (len(values) - number) / rate / 60
            text = f"{what}: {number} of {len(values)}, {rate:.0f} a second, {left:.0f} min left"
            print(text, file=sys.stderr, flush=True)
        yield value


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Says that something goes on which cannot tell how far it is."""
    if sys.stderr.isatty():
        with rich.console.Console(stderr=True).status(what):
            yield
        return
    ended, start = threading.Event(), time.monotonic()

    def tell():
        while not ended.wait(_EVERY_SECONDS):
            print(f"{what}: {(time.monotonic() - start) / 60:.0f} min", file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class Progress:
    """Shows tasks and bytes done; a context manager.

    The line comes every minute, also while a task takes longer: then it says that the job is alive.
    """

    def __init__(self, name: str, bytes_total: int, bytes_done: int, tasks_total: int, tasks_done: int):
        self._name, self._total, self._done = name, bytes_total, bytes_done
        self._tasks_total, self._tasks = tasks_total, tasks_done
        self._examples = 0
        self._at_start, self._start = bytes_done, time.monotonic()
        self._bar = None
        self._ended = threading.Event()

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty():
            columns = (*rich.progress.Progress.get_default_columns()[:-1], rich.progress.DownloadColumn())
            self._bar = rich.progress.Progress(*columns, rich.progress.TimeRemainingColumn())
            self._bar.start()
            self._shown = self._bar.add_task(self._name, total=self._total, completed=self._done)
        else:
            threading.Thread(target=self._tell, daemon=True).start()
        return self

    def _tell(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            print(self.line(), flush=True)

    def __exit__(self, *error) -> None:
        self._ended.set()
        if self._bar:
            self._bar.stop()

    def advance(self, size: int, examples: int) -> None:
        """A task of so many bytes is done."""
        self._done += size
        self._tasks += 1
        self._examples += examples
        if self._bar:
            self._bar.update(self._shown, completed=self._done)

    def line(self) -> str:
        """The state in words."""
        seconds = time.monotonic() - self._start
        rate = (self._done - self._at_start) / max(seconds, 1e-9)
        left = f"{(self._total - self._done) / rate / 60:.0f} min left" if rate else "no task done yet"
        return (
            f"{self._name}: {self._tasks} of {self._tasks_total} tasks, {_size(self._done)} of {_size(self._total)}, "
            f"{self._examples} examples, {self._examples / max(seconds, 1e-9):.0f} a second, {left}"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
