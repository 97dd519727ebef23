"""Image-text retrieval on COCO, Flickr30k and Flickr8k: recall at 1, 5 and 10 both ways, all captions of an image.

A set is in clip_benchmark's WebDataset layout (`evaluation/shards.py`, captions one a line in `txt`), or a prepared
data set (`tools.prepare karpathy` or `coco`), whose split `test` is taken, else `validation`.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from harmopower.data import records
from harmopower.data.records import DataSourceError
from harmopower.errors import RecordError
from harmopower.evaluation import averages, retrieval, sets, shards
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suite import NO_BOXES, Found, Prepared, Suite, Task, Vectors, View

# Karpathy's test splits, and COCO's own val2017 for models that were trained on train2017, in which Karpathy's test
# images lie. Images of mscoco_captions: mlfoundations/datacomp `tasklist.yml`; of Flickr: Karpathy & Fei-Fei 2015.
SETS = (
    Published("mscoco_captions", "mscoco_captions", 5_000, others=("wds_mscoco_2014_5k_test_image_text_retrieval",)),
    Published("flickr30k", "flickr30k", 1_000),
    Published("flickr8k", "flickr8k", 1_000),
    Published("coco_val2017", "", 5_000, others=("coco_val2017",)),
)
_SPLITS = ("test", "validation", "val")


class Retrieval(Task):
    """One set."""

    metrics = tuple(retrieval.chance(1))
    light = 1_000

    def __init__(self, folder: Path, published: Published):
        """Opens the set.

        Raises:
          DataSourceError: it is in neither layout.
        """
        self._published, self._captions = published, _lines
        if (folder / "test").is_dir():
            self.source = shards.Shards(folder, "txt")
            self.identity = self.source.identity
        else:
            split = _split(folder)
            self.source, self._captions = records.read(folder, split), _captions
            self.identity = hashlib.sha256(json.dumps(records.fingerprint(folder, split)).encode()).hexdigest()

    def prepare(self, example, view: View) -> Prepared:
        """Decodes the image and reads its captions."""
        stored, captions, where = self._captions(example)
        if not captions:
            raise RecordError(f"{where} has no caption")
        try:
            return Prepared(view.take(stored)[0], NO_BOXES, captions)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from error

    def measure(self, vectors: Vectors) -> Found:
        """Both ways over the whole set."""
        captions = vectors.facts
        owners = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
        texts = vectors.texts([caption for own in captions for caption in own])
        found = Found(retrieval.recall(vectors.images, texts, owners), retrieval.chance(len(captions), len(texts)))
        found.notes["images"] = f"{len(captions)} images, {len(texts)} captions"
        if self._published.size and len(captions) != self._published.size:
            found.partial["images"] = f"{len(captions)} images, the published set has {self._published.size}"
        return found


def _lines(sample: shards.Sample) -> tuple[bytes, list[str], str]:
    """Image, captions and place of a sample of the tars; blank lines are none."""
    try:
        text = sample.label.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{sample.where}: its captions are not UTF-8: {error}") from error
    return sample.image, [line for line in text.splitlines() if line.strip()], sample.where


def _captions(example: records.Example) -> tuple[bytes, list[str], str]:
    return example["image"], [text for text in example["captions"] if text.strip()], f"record {example['id']}"


def _split(folder: Path) -> str:
    there = records.splits(folder)
    split = next((name for name in _SPLITS if name in there), "")
    if not split:
        raise DataSourceError(f"{folder} has no split {' or '.join(_SPLITS)}, only {', '.join(there)}")
    return split


class RetrievalSuite(Suite):
    """All sets, and the mean of both ways on three of them."""

    name = "retrieval"
    averages = (averages.name(averages.RETRIEVAL),)

    def tasks(self, config) -> dict[str, Task | str]:
        return {published.name: sets.opened(config.evaluation.data, published, Retrieval) for published in SETS}

    def average(self, found: Found) -> Found:
        return averages.both(found, averages.RETRIEVAL)


SUITE = RetrievalSuite()
