"""Where metrics go: JSON lines, CSV, TensorBoard, and a line for the person who watches."""

import csv
import json
import math
import os

import rich.console
import rich.progress
import tensorboardX


class NonFiniteError(RuntimeError):
    """A metric became infinite or not a number; its text names the step and the terms."""


def check_finite(step: int, metrics: dict[str, float]) -> None:
    """Raises NonFiniteError naming every loss term, norm or scale that is not finite."""
    broken = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise NonFiniteError(f"step {step}: {', '.join(broken)}")


class MetricWriter:
    """Writes rows of metrics to `metrics.jsonl`, `metrics.csv` and TensorBoard events under `workdir`.

    A resumed run drops the rows of steps that it will do again, so that the files read as one uninterrupted run.
    """

    def __init__(self, workdir: str, start_step: int, tensorboard: bool = True, wandb=None):
        os.makedirs(workdir, exist_ok=True)
        self._jsonl_path, self._csv_path = (os.path.join(workdir, f"metrics.{kind}") for kind in ("jsonl", "csv"))
        self._rows = [row for row in read_metrics(workdir) if row["step"] <= start_step]
        _replace(self._jsonl_path, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._jsonl = open(self._jsonl_path, "a", encoding="utf-8")
        self._columns: list[str] = []
        self._csv = None
        self._events = tensorboardX.SummaryWriter(workdir, purge_step=start_step + 1) if tensorboard else None
        self._wandb = wandb
        self._rewrite_csv()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one row; columns that the CSV did not have yet make it be written anew."""
        row = {"step": step, **metrics}
        self._rows.append(row)
        self._jsonl.write(json.dumps(row) + "\n")
        self._jsonl.flush()
        if set(row) <= set(self._columns):
            self._write_csv_row(row)
        else:
            self._rewrite_csv()
        for name, value in metrics.items():
            if self._events:
                self._events.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(metrics, step=step)

    def close(self) -> None:
        """Flushes and closes all files."""
        for file in (self._jsonl, self._csv, self._events):
            if file:
                file.close()

    def _rewrite_csv(self):
        if self._csv:
            self._csv.close()
        for row in self._rows:
            self._columns += [name for name in row if name not in self._columns]
        self._csv = open(self._csv_path, "w", newline="", encoding="utf-8")
        self._table = csv.DictWriter(self._csv, self._columns)
        if self._columns:
            self._table.writeheader()
        for row in self._rows:
            self._write_csv_row(row)

    def _write_csv_row(self, row):
        self._table.writerow(row)
        self._csv.flush()


def read_metrics(workdir: str) -> list[dict]:
    """The rows of `metrics.jsonl`, oldest first; a last line that a kill cut short is left out."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _replace(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
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

    def update(self, step: int, metrics: dict[str, float], seconds_left: float) -> None:
        """Shows loss, examples a second and the time left."""
        text = (
            f"loss {metrics['loss/total']:.4f}  {metrics['examples_per_second']:.0f} examples/s  "
            f"{_duration(seconds_left)} left"
        )
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
