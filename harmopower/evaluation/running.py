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

from harmopower.data.records import DataSourceError
from harmopower.evaluation import looks, preparing, suites
from harmopower.evaluation.encoder import Encoder
from harmopower.evaluation.kept import NOTHING, Kept
from harmopower.evaluation.suite import Found, Suite, Task, Vectors
from harmopower.parallel import processes

_CLASSES_AT_ONCE = 64


class _Stopped(Exception):
    """The caller asked to stop between two batches."""


def run(
    config, encoder: Encoder, should_stop: Callable[[], bool] = lambda: False, kept: Kept = NOTHING
) -> Found | None:
    """Runs the suites that a config chooses.

    Args:
      config: the run's: `evaluation` says what is measured, `data.threads` and `data.workers` prepare.
      encoder: the model.
      should_stop: asked before every batch, equally often on every process.
      kept: results and class embeddings of earlier evaluations, which are not computed again; and where to keep these.

    Returns:
      The results, or None when `should_stop` said stop. What the data lack is left out, with the reason in the result.

    Raises:
      ConfigError, DataSourceError: a suite is unknown or has no data set.
    """
    found = Found()
    try:
        for suite in suites.chosen(config.evaluation.suite):
            found.add(_run_suite(suite, config, encoder, should_stop, kept))
    except _Stopped:
        return None
    return found


def run_tasks(
    tasks: dict[str, Task],
    config,
    encoder: Encoder,
    should_stop: Callable[[], bool] = lambda: False,
    kept: Kept = NOTHING,
) -> Found | None:
    """Runs tasks by themselves, as `light` names them. See `run`; of what is kept, class embeddings alone are used."""
    found, texts = Found(), _Texts(encoder, should_stop, kept)
    try:
        for name, task in tasks.items():
            found.add(_run_task(name, task, config, encoder, texts, should_stop))
    except _Stopped:
        return None
    return found


def nothing_to_measure(config) -> str:
    """One line for the start of a run that chooses suites and has the data of none; empty where there is something.

    Raises:
      ConfigError, DataSourceError: a suite is unknown or has no data set.
    """
    tasks = [task for own in suites.tasks(config).values() for task in own.values()]
    reasons = [task for task in tasks if isinstance(task, str)]
    if not config.evaluation.suite or len(reasons) < len(tasks):
        return ""
    why = "; ".join(dict.fromkeys(reasons))  # an empty evaluation.data is one reason for forty sets
    return f"config.evaluation.suite {config.evaluation.suite!r} finds nothing to measure: {why}"


def _run_suite(suite: Suite, config, encoder: Encoder, should_stop, kept: Kept) -> Found:
    found, texts = Found(), _Texts(encoder, should_stop, kept)
    for name, task in suite.tasks(config).items():
        if isinstance(task, str):
            found.left_out[name] = task
            continue
        part = kept.result(name, task)
        if part is None:
            part = _run_task(name, task, config, encoder, texts, should_stop)
            kept.keep(name, task, part)
        found.add(part)
    found.add(suite.average(found))
    return found


def _run_task(name: str, task: Task, config, encoder: Encoder, texts: "_Texts", should_stop) -> Found:
    try:
        count = len(task.source)
    except DataSourceError as error:  # found only when its files were opened; the other tasks go on
        return Found(left_out={name: str(error)})
    found, vectors = Found(), _encode(task, config.data, encoder, texts, should_stop)
    bad = count - len(vectors.facts)
    if bad:
        found.left_out[f"{name}/records"] = f"{bad} of {count} cannot be used (see the log)"
    if vectors.facts:
        found.add(task.measure(vectors), f"{name}/")
    return found


def _encode(task: Task, settings, encoder: Encoder, texts: "_Texts", should_stop) -> Vectors:
    """All examples of a task as vectors, and their facts from the processes that read them."""
    share, facts, encoded, seen = encoder.share, {}, [], []
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
            seen.append({name: looks.encode(encoder, batch, name, look) for name, look in task.looks.items()})
    facts = processes.gather(facts)
    indices = np.concatenate([part.indices for part in encoded]) if encoded else np.zeros(0, int)
    if list(indices) != sorted(facts):
        raise RuntimeError(f"{len(indices)} examples were encoded but {len(facts)} read; each must count once")
    return Vectors(
        [facts[index] for index in indices],
        np.concatenate([part.images for part in encoded] or [[]]),
        np.concatenate([part.regions for part in encoded] or [[]]),
        texts,
        texts.classes,
        {name: looks.joined([part[name] for part in seen], look) for name, look in task.looks.items()},
    )


class _Texts:
    """Texts as vectors; each distinct text of a suite is encoded once."""

    def __init__(self, encoder: Encoder, should_stop, kept: Kept):
        self._encoder, self._should_stop, self._kept = encoder, should_stop, kept
        self._rows: dict[str, int] = {}
        self._vectors: np.ndarray | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        parts = [] if self._vectors is None else [self._vectors]
        self._vectors = np.concatenate([*parts, *self._encoded(new)])
        self._rows |= {text: len(self._rows) + place for place, text in enumerate(new)}
        return self._vectors[[self._rows[text] for text in texts]]

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = []
        for start in range(0, len(texts), self._encoder.share.batch_size):
            _heed(self._should_stop)
            found.append(self._encoder.encode_texts(texts[start : start + self._encoder.share.batch_size]))
        return found

    def classes(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """See `Vectors.classes`; the prompts' own vectors are not remembered, for ImageNet has 80,000."""
        return self._kept.classes(prompts, lambda: np.concatenate([*self._means(prompts)]))

    def _means(self, prompts: Sequence[Sequence[str]]):
        for start in range(0, len(prompts), _CLASSES_AT_ONCE):
            some = prompts[start : start + _CLASSES_AT_ONCE]
            vectors = np.concatenate(self._encoded([text for texts in some for text in texts]))
            starts = np.cumsum([0, *(len(texts) for texts in some[:-1])])
            # As CLIP ensembles prompts (Radford et al. 2021, section 3.1.4); a sum has the direction of the mean.
            sums = np.add.reduceat(vectors, starts, axis=0)
            yield sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12)


def _heed(should_stop) -> None:
    if should_stop():
        raise _Stopped
