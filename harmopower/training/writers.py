"""Where metrics go: JSON lines, CSV, TensorBoard, and a line for the person who watches."""

from collections.abc import Iterator
import csv
import json
import math
import os
import re
import secrets

import rich.console
import rich.progress


class MetricWriter:
    """Appends rows of metrics to `metrics.jsonl`, `metrics.csv` and TensorBoard events under `workdir`.

    A resumed run drops the rows of steps that it will do again, so that the files read as one uninterrupted run. No row
    is kept in memory: a row costs the same however many there are, and what goes over the files does so line by line.
    """

    def __init__(self, workdir: str, start_step: int, tensorboard: bool = True, wandb=None):
        os.makedirs(workdir, exist_ok=True)
        self._jsonl_path, self._csv_path = (os.path.join(workdir, f"metrics.{kind}") for kind in ("jsonl", "csv"))
        rows = _drop_rows(self._jsonl_path, _JSONL_STEP, start_step)
        self._columns: list[str] = []
        if rows and _drop_rows(self._csv_path, _CSV_STEP, start_step) == rows + 1:  # its header
            self._columns = _csv_columns(self._csv_path)
        else:  # a kill came between the two
            _rewrite_csv(self._csv_path, self._jsonl_path, self._columns)
        self._open()
        self._events = _events(workdir, start_step) if tensorboard else None
        self._wandb = wandb

    def _open(self) -> None:
        self._jsonl = open(self._jsonl_path, "a", encoding="utf-8")
        self._csv = open(self._csv_path, "a", newline="", encoding="utf-8")
        self._table = csv.DictWriter(self._csv, self._columns)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one row; columns that the CSV did not have yet make it be written anew."""
        row = {"step": step, **metrics}
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        if row.keys() <= set(self._columns):
            self._table.writerow(row)
            self._csv.flush()
        else:
            self._add_columns(row)
        for name, value in metrics.items():
            if self._events:
                self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(metrics, step=step)

    def _add_columns(self, row: dict) -> None:
        self._columns += [name for name in row if name not in self._columns]
        self._jsonl.close()
        self._csv.close()
        _rewrite_csv(self._csv_path, self._jsonl_path, self._columns)
        self._open()

    def close(self) -> None:
        """Flushes and closes all files."""
        for file in (self._jsonl, self._csv, self._events):
            if file:
                file.close()


def _events(workdir: str, start_step: int):
    import tensorboardX  # it imports torch where it finds it: seconds that only who wants its events should wait

    return tensorboardX.SummaryWriter(workdir, purge_step=start_step + 1)


_JSONL_STEP = re.compile(rb'\{"step": (\d+)[,}]')  # the start of a row; the step is its first entry in both files
_CSV_STEP = re.compile(rb"(\d+)[,\r\n]")


def _drop_rows(path: str, step_of: re.Pattern, last_step: int) -> int:
    """Cuts off the file behind the last whole line of a step up to `last_step`; returns how many lines stay."""
    kept = end = 0
    if not os.path.exists(path):
        return 0
    with open(path, "r+b") as file:
        for line in file:
            found = step_of.match(line)  # none in the header of a CSV
            if not line.endswith(b"\n") or (found and int(found[1]) > last_step):
                break
            kept, end = kept + 1, end + len(line)
        file.truncate(end)
    return kept


def _csv_columns(path: str) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def _rewrite_csv(path: str, jsonl_path: str, columns: list[str]) -> None:
    """Writes the CSV anew from the rows of the JSON lines; `columns` takes up those that it lacks."""
    for row in _rows(jsonl_path):
        columns += [name for name in row if name not in columns]
    with open(path + ".new", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        if columns:
            table.writeheader()
        table.writerows(_rows(jsonl_path))
    os.replace(path + ".new", path)


def _rows(path: str) -> Iterator[dict]:
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.endswith("\n"))


def read_metrics(workdir: str) -> list[dict]:
    """The rows of `metrics.jsonl`, oldest first; a last line that a kill cut short is left out."""
    return list(_rows(os.path.join(workdir, "metrics.jsonl")))


def start_wandb(workdir: str, settings: dict):
    """Starts the Weights & Biases run of this workdir, or goes on with it; needs the extra `wandb`.

    Of steps that a resumed run does again W&B keeps what it has: it takes no step twice.
    """
    import wandb  # an optional dependency

    path = os.path.join(workdir, "wandb_id")
    if not os.path.exists(path):
        write_file(path, secrets.token_hex(8))
    with open(path, encoding="utf-8") as file:
        return wandb.init(project="harmopower", dir=workdir, config=settings, id=file.read().strip(), resume="allow")


def write_file(path: str, text: str) -> None:
    """Writes a file whole or not at all, also where the machine stops in the middle."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


class Progress:
    """A live bar on a terminal, one plain line per logged step elsewhere."""

    def __init__(self, total_steps: int, start_step: int, show: bool = True):
        self._console = rich.console.Console(highlight=False, soft_wrap=True)
        self._total = total_steps
        self._show = show
        self._bar = None
        if show and self._console.is_terminal:
            progress = rich.progress
            self._bar = progress.Progress(
                progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=total_steps, completed=start_step, text="compiling")

    def update(self, step: int, metrics: dict[str, float], seconds_left: float | None) -> None:
        """Shows loss, examples a second and the time left; None, after the first step: no rate is known yet."""
        text = f"loss {metrics.get('loss/total', math.nan):.4f}"
        if seconds_left is not None:
            text += f"  {metrics['examples_per_second']:.0f} examples/s  {_duration(seconds_left)} left"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        elif self._show:
            self._console.print(f"step {step}/{self._total}  {text}")

    def message(self, text: str) -> None:
        """Prints a line of its own, above the bar where there is one."""
        if self._show:
            self._console.print(text)

    def close(self) -> None:
        """Takes the bar off the terminal's live area."""
        if self._bar:
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
