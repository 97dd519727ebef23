"""How far a job is: a bar on a terminal, a line a minute elsewhere."""

import sys
import time

import rich.progress

_EVERY_SECONDS = 60


class Progress:
    """Shows tasks and bytes done; a context manager."""

    def __init__(self, name: str, bytes_total: int, bytes_done: int, tasks_total: int, tasks_done: int):
        self._name, self._total, self._done = name, bytes_total, bytes_done
        self._tasks_total, self._tasks = tasks_total, tasks_done
        self._examples = 0
        self._at_start, self._start = bytes_done, time.monotonic()
        self._last = self._start
        self._bar = None

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty():
            columns = (*rich.progress.Progress.get_default_columns()[:-1], rich.progress.DownloadColumn())
            self._bar = rich.progress.Progress(*columns, rich.progress.TimeRemainingColumn())
            self._bar.start()
            self._shown = self._bar.add_task(self._name, total=self._total, completed=self._done)
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, size: int, examples: int) -> None:
        """A task of so many bytes is done."""
        self._done += size
        self._tasks += 1
        self._examples += examples
        if self._bar:
            self._bar.update(self._shown, completed=self._done)
        elif time.monotonic() - self._last >= _EVERY_SECONDS:
            self._last = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        """The state in words."""
        seconds = time.monotonic() - self._start
        rate = (self._done - self._at_start) / max(seconds, 1e-9)
        left = (self._total - self._done) / rate / 60 if rate else float("inf")
        return (
            f"{self._name}: {self._tasks} of {self._tasks_total} tasks, {_size(self._done)} of {_size(self._total)}, "
            f"{self._examples} examples, {self._examples / max(seconds, 1e-9):.0f} a second, {left:.0f} min left"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
