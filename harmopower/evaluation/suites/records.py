"""Retrieval, classification, boxes and composition on splits of the training data, each as far as the records go.

In one pass: an image is decoded and encoded once for all of them.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np

from harmopower.data import records
from harmopower.errors import ConfigError, RecordError
from harmopower.evaluation import boxes, classification, composition, retrieval
from harmopower.evaluation.suite import Found, Prepared, Suite, Task, Vectors, View


class RecordsSuite(Suite):
    """Measures splits of `config.data.source`."""

    def __init__(self, name: str, splits: tuple[str, ...]):
        self.name, self._splits = name, splits

    def tasks(self, config) -> dict[str, Task | str]:
        """One task a split.

        Raises:
          ConfigError, DataSourceError: there is no data set.
        """
        directory = config.data.source
        if not directory:
            raise ConfigError(f"config.data.source is empty; the suite {self.name!r} measures that data set's splits")
        classes, there = list(records.metadata(directory).get("classes", [])), records.splits(directory)
        return {
            split: RecordsTask(directory, split, classes, config.evaluation.candidates)
            if split in there
            else f"{directory} has no split {split!r}, only {', '.join(there)}"
            for split in self._splits
        }


class Facts(NamedTuple):
    """What is kept of a record."""

    captions: list[str]
    negatives: list[dict]
    label: str  # of the only region; empty where there are none or several
    labels: list[str]  # of the regions that have a feature


class RecordsTask(Task):
    """Whatever one split of a prepared data set can measure."""

    def __init__(self, directory, split: str, classes: list[str], candidates: int):
        """Args:
        directory, split: see `records.read`.
        classes: the names of all classes; empty where the data name none.
        candidates: images of retrieval, the first ones, each with all its captions.
        """
        self.source = records.read(directory, split)
        self._classes, self._candidates = classes, candidates

    @property
    def metrics(self) -> list[str]:
        """Kinds of negatives that only these data have are not foreseen."""
        depths = classification.DEPTHS if self._classes else ()
        return [
            *(f"retrieval/{name}" for name in retrieval.chance(1)),
            *(f"classification/top{k}" for k in depths),
            *(f"boxes/{name}" for name in boxes.chance(1) if self._classes),
            *(f"composition/{name}" for name in composition.chance(composition.KINDS)),
        ]

    def prepare(self, example: records.Example, view: View) -> Prepared:
        """Decodes the image and moves the boxes along."""
        problems = records.check(example, decode_image=False)
        if problems:
            raise RecordError("; ".join(problems))
        regions = records.regions_of(example, 0)  # of the caption that retrieval takes: each box once
        try:
            image, moved, kept = view.take(example["image"], [region["box"] for region in regions])
        except RecordError as error:
            raise RecordError(f"record {example['id']}: {error}") from error
        label = regions[0]["label"] if len(regions) == 1 else ""
        facts = Facts(example["captions"], example["negatives"], label, [regions[index]["label"] for index in kept])
        return Prepared(image, moved, facts)

    def measure(self, vectors: Vectors) -> Found:
        """All parts; what the records lack for one of them is said."""
        found = Found()
        for part, measure in PARTS.items():
            try:
                found.add(Found(*measure(vectors, self)), f"{part}/")
            except _LeftOut as reason:
                found.left_out[part] = str(reason)
        return found

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """Class name -> its number."""
        return {name: number for number, name in enumerate(self._classes)}

    @property
    def candidates(self) -> int:
        """How many images retrieval takes at most."""
        return self._candidates

    def class_vectors(self, vectors: Vectors) -> np.ndarray:
        """[C, D], the mean over the prompts of each class."""
        _need(self._classes, "the data set's metadata name no classes")
        return classification.class_embeddings(vectors.texts(classification.class_texts(self._classes)))


class _LeftOut(Exception):
    """The data lack what a measurement needs; the text says what."""


def _need(there, reason: str) -> None:
    if not there:
        raise _LeftOut(reason)


def _retrieval(vectors: Vectors, task: RecordsTask):
    count = min(task.candidates, len(vectors.facts))
    captions = [facts.captions for facts in vectors.facts[:count]]
    owners = np.repeat(np.arange(count), [len(own) for own in captions])
    texts = vectors.texts([caption for own in captions for caption in own])
    return retrieval.recall(vectors.images[:count], texts, owners), retrieval.chance(count, len(texts))


def _classification(vectors: Vectors, task: RecordsTask):
    classes = task.class_vectors(vectors)
    labels = np.array([task.numbers.get(facts.label, -1) for facts in vectors.facts])
    _need((labels >= 0).any(), "no example has exactly one region, with a class as its label")
    single = labels >= 0
    found = classification.accuracy(vectors.images[single], classes, labels[single])
    return found, classification.chance(len(classes))


def _boxes(vectors: Vectors, task: RecordsTask):
    classes = task.class_vectors(vectors)
    labels = np.array([task.numbers.get(label, -1) for facts in vectors.facts for label in facts.labels], int)
    _need((labels >= 0).any(), "no region has a class as its label")
    known = labels >= 0
    return boxes.accuracy(vectors.regions[known], classes, labels[known]), boxes.chance(len(classes))


def _composition(vectors: Vectors, task: RecordsTask):
    pairs = [(row, negative) for row, facts in enumerate(vectors.facts) for negative in facts.negatives]
    _need(pairs, "no example has negatives")
    images = vectors.images[[row for row, _ in pairs]]
    captions = vectors.texts([vectors.facts[row].captions[negative["caption"]] for row, negative in pairs])
    negatives = vectors.texts([negative["text"] for _, negative in pairs])
    kinds = [negative["kind"] for _, negative in pairs]
    return composition.accuracy(images, captions, negatives, kinds), composition.chance(kinds)


PARTS: dict[str, Callable[[Vectors, RecordsTask], tuple[dict, dict]]] = {
    "retrieval": _retrieval,
    "classification": _classification,
    "boxes": _boxes,
    "composition": _composition,
}

SUITE = RecordsSuite("records", ("validation", "test"))
