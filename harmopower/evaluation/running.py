"""Runs suites: reads, encodes and measures, on all devices and processes.

    encoder = Encoder(model, params, tokenizer, image_size, context_length, batch_size, region_pooling="overlap")
    found = running.run(config, encoder)
    report.write(workdir, step, found)

Results are called `task/metric`, such as `test/retrieval/image_to_text_r1`, and are shares in 0..1. Each process
prepares its own rows of every batch, all devices encode, and every example counts once; so the numbers are the same on
any number of devices and processes, up to the rounding of the model itself.
"""

from collections.abc import Callable, Sequence
import contextlib

from absl import logging
import numpy as np

from harmopower.evaluation import preparing, suites
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.suite import Found, Suite, Task, Vectors
from harmopower.parallel import processes


class _Stopped(Exception):
    """The caller asked to stop between two batches."""


def run(config, encoder: Encoder, should_stop: Callable[[], bool] = lambda: False) -> Found | None:
    """Runs the suites that a config chooses.

    Args:
      config: the run's: `evaluation` says what is measured, `data.threads` and `data.workers` prepare.
      encoder: the model.
      should_stop: asked before every batch, equally often on every process.

    Returns:
      The results, or None when `should_stop` said stop. What the data lack is left out, with the reason in the result.

    Raises:
      ConfigError, DataSourceError: a suite is unknown or has no data set.
    """
    found = Found()
    try:
        for suite in suites.chosen(config.evaluation.suite):
            found.add(_run_suite(suite, config, encoder, should_stop))
    except _Stopped:
        return None
    return found


def nothing_to_measure(config) -> str:
    """One line for the start of a run that chooses suites and has the data of none; empty where there is something.

    Raises:
      ConfigError, DataSourceError: a suite is unknown or has no data set.
    """
    tasks = [task for own in suites.tasks(config).values() for task in own.values()]
    if not config.evaluation.suite or any(isinstance(task, Task) for task in tasks):
        return ""
    return f"config.evaluation.suite {config.evaluation.suite!r} finds nothing to measure: {'; '.join(tasks)}"


def _run_suite(suite: Suite, config, encoder: Encoder, should_stop) -> Found:
    found, texts = Found(), _Texts(encoder, should_stop)
    for name, task in suite.tasks(config).items():
        if isinstance(task, str):
            found.left_out[name] = task
            continue
        vectors = _encode(task, config.data, encoder, texts, should_stop)
        bad = len(task.source) - len(vectors.facts)
        if bad:
            found.left_out[f"{name} records"] = f"{bad} of {len(task.source)} cannot be used (see the log)"
        if vectors.facts:
            found.add(task.measure(vectors), f"{name}/")
    found.add(suite.average(found))
    return found


def _encode(task: Task, settings, encoder: Encoder, texts: "_Texts", should_stop) -> Vectors:
    """All examples of a task as vectors, and their facts from the processes that read them."""
    share, facts, encoded = encoder.share, {}, []
    with contextlib.closing(preparing.rows(task, encoder.view, share, settings.threads, settings.workers)) as rows:
        for _ in range(0, len(task.source), share.batch_size):
            _heed(should_stop)
            batch = [next(rows) for _ in range(share.count)]
            for row in batch:
                if row.problem:
                    logging.warning("bad record, left out of the evaluation: %s", row.problem)
                elif row.prepared is not None:
                    facts[row.index] = row.prepared.facts
            encoded.append(encoder.encode_images(batch))
    facts = processes.gather(facts)
    indices = np.concatenate([part.indices for part in encoded]) if encoded else np.zeros(0, int)
    if list(indices) != sorted(facts):
        raise RuntimeError(f"{len(indices)} examples were encoded but {len(facts)} read; each must count once")
    return Vectors(
        [facts[index] for index in indices],
        np.concatenate([part.images for part in encoded] or [[]]),
        np.concatenate([part.regions for part in encoded] or [[]]),
        texts,
    )


class _Texts:
    """Texts as vectors; each distinct text of a suite is encoded once."""

    def __init__(self, encoder: Encoder, should_stop):
        self._encoder, self._should_stop = encoder, should_stop
        self._rows: dict[str, int] = {}
        self._vectors: np.ndarray | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        parts = [] if self._vectors is None else [self._vectors]
        for start in range(0, len(new), self._encoder.share.batch_size):
            _heed(self._should_stop)
            parts.append(self._encoder.encode_texts(new[start : start + self._encoder.share.batch_size]))
        self._vectors = np.concatenate(parts)
        self._rows |= {text: len(self._rows) + place for place, text in enumerate(new)}
        return self._vectors[[self._rows[text] for text in texts]]


def _heed(should_stop) -> None:
    if should_stop():
        raise _Stopped
