"""What earlier evaluations found is not computed again: the results of finished tasks, and embeddings of classes.

A result counts as found when weights, settings, data and protocol are the same, which a hash says that is stored beside
it; so an evaluation that was stopped goes on where it was, and a suite can be added without running the others again.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jax
import numpy as np

from harmopower.evaluation import report
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import Found, Task
from harmopower.parallel import processes

PROTOCOL = 1  # to be raised when a suite measures otherwise than before, so that older results are not taken for new
UNFINISHED = "eval.unfinished.json"  # beside it, while an evaluation runs
CLASSES = "class_embeddings"


class Kept:
    """Keeps nothing and knows nothing: what an evaluation in the middle of training uses.

    Attributes:
      tasks: name -> hash of the tasks that are done, for `eval.json`.
    """

    def __init__(self):
        self.tasks: dict[str, str] = {}

    def result(self, name: str, task: Task) -> Found | None:
        """What a task gave before, if it is known."""

    def keep(self, name: str, task: Task, found: Found) -> None:
        """Takes the results of a task that was just finished."""

    def classes(self, prompts: Sequence[Sequence[str]], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The embeddings of classes, [C, D], known or computed."""
        return compute()

    def finish(self) -> None:
        """Called when all results stand in `eval.json`."""


NOTHING = Kept()


class KeptIn(Kept):
    """Keeps in a folder, such as the run's; the first process reads and writes, and tells the others."""

    def __init__(self, folder, encoder: Encoder, again: bool = False):
        """Reads what earlier evaluations left.

        Args:
          encoder: the model that is evaluated.
          again: whether results are measured anew; class embeddings are used all the same.
        """
        super().__init__()
        self._folder, self._encoder, self._done = Path(folder), encoder, Found()
        self._known = {} if again or jax.process_index() else _results(self._folder)

    def result(self, name: str, task: Task) -> Found | None:
        key = self._key(task)
        found = _of_first(self._known.get((name, key)) if key else None)
        if found:
            self._done.add(found)
            self.tasks[name] = key
        return found

    def keep(self, name: str, task: Task, found: Found) -> None:
        key = self._key(task)
        if not key or not found.metrics:
            return
        self._done.add(found)
        self.tasks[name] = key
        if jax.process_index() == 0:
            report.write_json(self._folder / UNFINISHED, {"tasks": self.tasks, **dataclasses.asdict(self._done)})

    def finish(self) -> None:
        (self._folder / UNFINISHED).unlink(missing_ok=True)

    def classes(self, prompts: Sequence[Sequence[str]], compute: Callable[[], np.ndarray]) -> np.ndarray:
        key = hashlib.sha256((self._encoder.identity + json.dumps([*map(list, prompts)])).encode()).hexdigest()[:32]
        path = self._folder / CLASSES / f"{key}.npy"
        found = _of_first(np.load(path) if jax.process_index() == 0 and path.exists() else None)
        if found is not None:
            return found
        found = compute()
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(f".{os.getpid()}.npy")
            np.save(new, found)
            os.replace(new, path)
        return found

    def _key(self, task: Task) -> str:
        """The hash of all that a task's results hang on; empty where they cannot be known again."""
        if task.identity is None:
            return ""
        return hashlib.sha256(f"{PROTOCOL} {self._encoder.identity} {task.identity}".encode()).hexdigest()[:32]


def _results(folder: Path) -> dict[tuple[str, str], Found]:
    """(task, hash) -> results, of the finished evaluation and of one that was stopped."""
    known = {}
    for file in (report.FILE, UNFINISHED):
        try:
            stored = json.loads((folder / file).read_text(encoding="utf-8"))
            found = Found(**{field.name: stored.get(field.name, {}) for field in dataclasses.fields(Found)})
            known |= {(name, key): found.of(name) for name, key in stored.get("tasks", {}).items()}
        except (OSError, ValueError, AttributeError):  # none, or one of another version: everything is measured
            continue
    return known


def _of_first(value):
    """The first process's value, on all of them."""
    return processes.gather({0: value} if jax.process_index() == 0 else {})[0]
