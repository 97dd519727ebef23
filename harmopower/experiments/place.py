"""Where the runs of a table live, what command makes each, and what row is read from one that is done."""

import fcntl
import functools
import json
import os
from pathlib import Path
import subprocess
import sys

import jax

from harmopower.errors import CommandError
from harmopower.evaluation import report
from harmopower.experiments.measuring import fitting
from harmopower.experiments.table import Run, Table
from harmopower.training.checkpoints import Checkpoints
from harmopower.training.writers import read_metrics


class Place:
    """A folder of workdirs, one a run and definition, so that a changed definition meets no old checkpoints."""

    def __init__(self, table: Table, runs: dict[str, Run], root: str | os.PathLike):
        self.root = Path(root)
        self._table, self._runs = table, runs

    def folder(self, run: Run) -> Path:
        """What the run's command writes to."""
        return self.root / run.data / run.variant / f"seed{run.seed}-{run.definition[:8]}"

    def weights(self, run: Run) -> Path:
        """A workdir with the run's last weights."""
        if run.alpha is None:
            return self.folder(run)
        return next(self.folder(run).glob("alpha_*"), self.folder(run))  # tools.interpolate names its points so

    def log(self, run: Run) -> Path:
        """What the run's commands print."""
        return self.folder(run).with_suffix(".log")

    def command(self, run: Run) -> list[str]:
        """The command of a run, as a person would type it; started again, it goes on."""
        starts = [str(self.weights(self._runs[name])) for name in run.needs]
        if run.alpha is not None:
            ends = ["--a", starts[0], "--b", starts[1], "--alpha", f"{run.alpha:g}", "--output", str(self.folder(run))]
            return [
                *_python("tools.interpolate"),
                *ends,
                "--evaluate",
                "--global-metrics",
                "*",
                "--region-metrics",
                "*",
            ]
        changes = run.changes | ({"init": starts[0]} if starts else {})
        settings = [f"--config.{key}={_flag(value)}" for key, value in changes.items()]
        train = _python("harmopower.train")
        return [*train, "--config", self._table.config, "--workdir", str(self.folder(run)), *settings]

    def step(self, run: Run) -> int:
        """The step of its newest checkpoint; 0 where there is none."""
        return max(Checkpoints(str(self.weights(run))).steps(), default=0)

    def finished(self, run: Run) -> bool:
        """Whether its last weights and their evaluation are there."""
        try:
            found = report_of(self.weights(run))["step"]
        except CommandError:
            return False
        return run.alpha is not None or (found == run.steps and self.step(run) == run.steps)

    def holder(self, run: Run) -> str:
        """Who trains in its workdir at this moment, such as what a killed table left; empty where nobody does."""
        try:
            with open(self.folder(run) / "lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return ""
        except BlockingIOError:
            return (self.folder(run) / "lock").read_text().strip() or "another process"
        return ""

    def row(self, run: Run) -> dict:
        """The row of a run that is finished.

        Raises:
          CommandError: its workdir lacks what a row needs.
        """
        trained, found = self._trained(run), report_of(self.weights(run))
        training, evaluations = self._history(trained)
        flops = run.steps * training["model_flops"] / training["step"]
        if run.alpha is not None:  # measured once, by `tools.interpolate`
            evaluations = [_evaluation(run.steps, flops, found["metrics"], self._table)]
        source = json.loads((self.folder(trained) / "run.json").read_text())
        return {
            "run": run.name,
            "variant": run.variant,
            "data": run.data,
            "seed": run.seed,
            "definition": run.definition,
            "settings": run.settings,
            "data_fingerprint": source["data"],
            "steps": run.steps,
            "model_flops": evaluations[-1]["model_flops"],
            "metrics": _rounded(found["metrics"]),
            "evaluations": evaluations,
            "training": _rounded({name: value for name, value in training.items() if run.alpha is None}),
            "made_with": made_with(),
        }

    def _trained(self, run: Run) -> Run:
        """The run itself, or the trained one that weights in between go back to."""
        return run if run.alpha is None else self._trained(self._runs[run.needs[1]])

    def _history(self, run: Run) -> tuple[dict, list[dict]]:
        """The last row of a training, and all its evaluations with what had been computed by then."""
        rows = read_metrics(str(self.folder(run)))
        training = [row for row in rows if "model_flops" in row]
        if not training:
            raise CommandError(f"{self.folder(run)}: metrics.jsonl counts no FLOPs; an older version made it")
        a_step = training[-1]["model_flops"] / training[-1]["step"]
        prefix = "evaluation/"
        evaluations = []
        for row in rows:
            metrics = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            if metrics:
                evaluations.append(_evaluation(row["step"], row["step"] * a_step, metrics, self._table))
        return training[-1], evaluations


def report_of(workdir: Path) -> dict:
    """The `eval.json` of a workdir.

    Raises:
      CommandError: there is none, or it measured nothing.
    """
    path = workdir / report.FILE
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: {error}; a table needs config.evaluation.suite and its data") from error
    return found


def _evaluation(step: int, flops: float, metrics: dict, table: Table) -> dict:
    patterns = [pattern for measure in table.measures for pattern in table.patterns(measure)]
    return {"step": step, "model_flops": flops, "metrics": _rounded(fitting(metrics, patterns))}


def _rounded(metrics: dict) -> dict:
    """To six digits, more than any seed tells apart: rows are kept with the code."""
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _flag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def environment(jobs: int) -> dict[str, str]:
    """That of the runs: compiled programs are shared, and where several are on one GPU, so is its memory."""
    found = dict(os.environ)
    found.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(os.path.join(".cache", "jax")))
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if jobs > 1:
        found.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / jobs:.3f}")
    return found


@functools.cache
def made_with() -> dict:
    """The commit of the code, where git knows one, and the version of jax."""
    git = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    return {"commit": commit or "unknown", "jax": jax.__version__}
