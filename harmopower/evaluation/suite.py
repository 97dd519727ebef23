"""What is measured, on which splits; the table and the file of the results.

    encoder = suite.Encoder(model, params, tokenizer, image_size, context_length, batch_size, region_pooling="overlap")
    found = suite.run(config.evaluation, encoder, "runs/data/scenes")
    suite.write(workdir, step, found)
    rich.print(suite.table(found, step))

Metrics are called `split/part/metric`, such as `test/retrieval/image_to_text_r1`, and are shares in 0..1.
"""

from collections.abc import Callable
import dataclasses
import json
import os

from absl import logging
import numpy as np
from rich.table import Table

from harmopower.data import records
from harmopower.evaluation import boxes, classification, composition, retrieval
from harmopower.evaluation.encoder import Encoder

__all__ = ["SUITES", "Encoder", "Found", "run", "table", "write"]

SUITES = {"scenes": ("test", "test_unseen")}  # name -> the splits that it measures


@dataclasses.dataclass
class Found:
    """The results of an evaluation, under the same names what chance would reach, and what was left out and why."""

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    chance: dict[str, float] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # "split" or "split/part" -> reason

    def add(self, prefix: str, metrics: dict[str, float], chance: dict[str, float]) -> None:
        """Adds the metrics of one part of one split, each with its chance level."""
        for name, value in metrics.items():
            self.metrics[f"{prefix}/{name}"], self.chance[f"{prefix}/{name}"] = value, chance[name]


class _Stopped(Exception):
    """The caller asked to stop between two batches."""


class _LeftOut(Exception):
    """The data lack what a measurement needs; the text says what."""


@dataclasses.dataclass
class _Split:
    """A split in embeddings, all L2-normalised; classes is [0, D] where the data set names none."""

    examples: list[records.Example]  # without images; those of the regions that have a feature are also under "kept"
    images: np.ndarray  # [n, D]
    regions: np.ndarray  # [all regions of all examples in order, D]
    texts: np.ndarray  # [distinct texts, D]
    rows: dict[str, int]  # text -> its row
    names: list[str]  # of the classes
    classes: np.ndarray  # [C, D]

    def text(self, texts: list[str]) -> np.ndarray:
        """The embeddings [n, D] of those texts."""
        return self.texts[[self.rows[text] for text in texts]]


def run(
    settings, encoder: Encoder, data_directory: str, should_stop: Callable[[], bool] = lambda: False
) -> Found | None:
    """Measures a suite on a prepared data set.

    Args:
      settings: `config.evaluation`: `suite`, one of `SUITES`, and `candidates`, the images and texts of retrieval (the
        first ones of the split).
      encoder: the model.
      data_directory: folder of the data set; its metadata may hold `classes`. What it lacks (a split, classes, boxes,
        negatives) is left out, with the reason in the result.
      should_stop: asked before every batch.

    Returns:
      The results, or None when `should_stop` said stop.

    Raises:
      DataSourceError: there is no data set.
    """
    found = Found()
    names = list(records.metadata(data_directory).get("classes", []))
    try:
        classes = _encode_classes(encoder, names, should_stop)
        for split in SUITES[settings.suite]:
            _measure_split(found, split, settings, encoder, data_directory, (names, classes), should_stop)
    except _Stopped:
        return None
    return found


def _measure_split(found: Found, split: str, settings, encoder, data_directory, classes, should_stop) -> None:
    try:
        source = records.read(data_directory, split)
    except records.DataSourceError:
        found.left_out[split] = "the data set has no such split"
        return
    examples, images, regions = _encode_images(encoder, source, should_stop)
    if len(examples) < len(source):
        bad = len(source) - len(examples)
        found.left_out[f"{split} records"] = f"{bad} of {len(source)} cannot be used (see the log)"
    if not examples:
        return
    texts, rows = _encode_texts(encoder, examples, should_stop)
    data = _Split(examples, images, regions, texts, rows, *classes)
    for part, measure in _PARTS.items():
        try:
            found.add(f"{split}/{part}", *measure(data, settings))
        except _LeftOut as reason:
            found.left_out[f"{split}/{part}"] = str(reason)


# ---- Embeddings, batch by batch ----


def _encode_classes(encoder: Encoder, names: list[str], should_stop) -> np.ndarray:
    texts = classification.class_texts(names)
    parts = [encoder.encode_texts(batch) for batch in _batches(texts, encoder.batch_size, should_stop)]
    return classification.class_embeddings(np.concatenate(parts)) if parts else np.zeros((0, 0), np.float32)


def _encode_images(encoder: Encoder, source, should_stop):
    examples, images, regions = [], [], []
    for batch in _batches(range(len(source)), encoder.batch_size, should_stop):
        usable, prepared = _prepare(encoder, [source[index] for index in batch])
        if usable:
            examples += usable
            pooled, own = encoder.encode_images(prepared)
            images.append(pooled)
            regions.append(own)
    return examples, np.concatenate(images or [[]]), np.concatenate(regions or [[]])


def _prepare(encoder: Encoder, batch: list[records.Example]):
    """The usable examples without their images, which are large, and what the encoder takes; names the others."""
    usable, prepared = [], []
    for example in batch:
        try:
            prepared.append(encoder.prepare(example))
        except records.RecordError as error:
            logging.warning("bad record, left out of the evaluation: %s", error)
            continue
        kept = [example["regions"][index] for index in prepared[-1].kept]
        usable.append({**example, "image": b"", "kept": kept})
    return usable, prepared


def _encode_texts(encoder: Encoder, examples: list[records.Example], should_stop) -> tuple[np.ndarray, dict[str, int]]:
    """Every distinct caption and negative that is compared: embeddings, and the row of each text."""
    compared = [example["captions"][0] for example in examples]
    for row, negative in _negatives(examples):
        compared += [examples[row]["captions"][negative["caption"]], negative["text"]]
    texts = list(dict.fromkeys(compared))
    parts = [encoder.encode_texts(batch) for batch in _batches(texts, encoder.batch_size, should_stop)]
    return np.concatenate(parts), {text: row for row, text in enumerate(texts)}


def _negatives(examples: list[records.Example]) -> list[tuple[int, dict]]:
    return [(row, negative) for row, example in enumerate(examples) for negative in example["negatives"]]


def _batches(items, size: int, should_stop):
    for start in range(0, len(items), size):
        if should_stop():
            raise _Stopped
        yield items[start : start + size]


# ---- The parts: a split in embeddings -> metrics and chance levels ----


def _retrieval(data: _Split, settings):
    count = min(settings.candidates, len(data.examples))
    captions = [example["captions"][0] for example in data.examples[:count]]
    return retrieval.recall(data.images[:count], data.text(captions)), retrieval.chance(count)


def _classification(data: _Split, settings):
    labels = np.array(
        [_label(data, example["regions"][0]) if len(example["regions"]) == 1 else -1 for example in data.examples]
    )
    _need(data.names, "the data set's metadata name no classes")
    _need((labels >= 0).any(), "no example has exactly one region, with a class as its label")
    single = labels >= 0
    found = classification.accuracy(data.images[single], data.classes, labels[single])
    return found, classification.chance(len(data.names))


def _boxes(data: _Split, settings):
    labels = np.array([_label(data, part) for example in data.examples for part in example["kept"]])
    _need(data.names, "the data set's metadata name no classes")
    _need((labels >= 0).any(), "no region has a class as its label")
    known = labels >= 0
    return boxes.accuracy(data.regions[known], data.classes, labels[known]), boxes.chance(len(data.names))


def _composition(data: _Split, settings):
    pairs = _negatives(data.examples)
    _need(pairs, "no example has negatives")
    images = data.images[[row for row, _ in pairs]]
    captions = data.text([data.examples[row]["captions"][negative["caption"]] for row, negative in pairs])
    kinds = [negative["kind"] for _, negative in pairs]
    negatives = data.text([negative["text"] for _, negative in pairs])
    return composition.accuracy(images, captions, negatives, kinds), composition.chance(kinds)


_PARTS = {"retrieval": _retrieval, "classification": _classification, "boxes": _boxes, "composition": _composition}


def _label(data: _Split, part: dict) -> int:
    return data.names.index(part["label"]) if part["label"] in data.names else -1


def _need(there, reason: str) -> None:
    if not there:
        raise _LeftOut(reason)


# ---- Results ----


def write(workdir: str, step: int, found: Found) -> None:
    """Writes `eval.json`: `{"step", "metrics", "chance", "left_out"}`; replaced at once, never half written."""
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "eval.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"step": step, **dataclasses.asdict(found)}, file, indent=2)
        file.write("\n")
    os.replace(path + ".new", path)


def table(found: Found, step: int) -> Table:
    """The results in percent, a column a split, each with its chance level beside it."""
    splits = list(dict.fromkeys(name.split("/")[0] for name in found.metrics))
    rows = dict.fromkeys(name.split("/", 1)[1] for name in found.metrics)
    caption = "\n".join(f"left out: {name}: {reason}" for name, reason in found.left_out.items())
    result = Table(title=f"Evaluation of step {step}, in percent", caption=caption or None)
    result.add_column("metric")
    for split in splits:
        result.add_column(split, justify="right")
        result.add_column("chance", justify="right", style="dim")
    for row in rows:
        names = [f"{split}/{row}" for split in splits]
        result.add_row(row, *(_percent(values, name) for name in names for values in (found.metrics, found.chance)))
    return result


def _percent(values: dict[str, float], name: str) -> str:
    return f"{100 * values[name]:.1f}" if name in values else "-"
