"""Phrase grounding and fine-grained choice without training: Flickr30k Entities and FG-OVD.

    ROOT/flickr30k_entities/{Sentences,Annotations}/ID.{txt,xml}  test.txt  flickr30k-images/ID.jpg
    ROOT/fg_ovd/{h,m,e}_attributes_llava.jsonl  shuffle_negatives_llava.jsonl    ROOT/coco/val2017/*.jpg

Images are squashed to the model's size, so that no box leaves them. On Flickr30k Entities every phrase of every caption
that has a box is a query, encoded alone as it stands. `r1`, `r5`, `r10`: of the boxes that annotators drew in the image
the first k, by the similarity of their region features, have one that overlaps the right box by half (no detector: our
choice, so these are not the figures of detectors). `any_box`: the right ones are all boxes of the phrase; `merged_box`:
the one around them, and candidates are such boxes too. `pointing`: the middle of the most similar patch lies in one.
"""

import functools
import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from harmopower.data import images as decoding
from harmopower.data.readers import flickr30k_entities as entities
from harmopower.data.readers import protocol
from harmopower.data.records import DataSourceError
from harmopower.data.transforms import shape_of
from harmopower.errors import RecordError
from harmopower.evaluation import framing, grounding, sets
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suite import NO_BOXES, Found, Look, Prepared, Seen, Suite, Task, Vectors, View
from harmopower.evaluation.suites.boxes import chosen
from harmopower.models import clip

_ENTITIES = Published(
    "flickr30k_entities",
    "",
    1_000,
    get="Sentences/, Annotations/ and test.txt of github.com/BryanPlummer/flickr30k_entities, and the images of "
    "Flickr30k as flickr30k-images/",
)
_FG_OVD = Published(
    "fg_ovd",
    "",
    get="the *_llava.jsonl of github.com/360CVGroup/FG-CLIP `data/fgovd/`; their images are those of coco/val2017",
)
# File -> level of FG-OVD and its rows, as counted in that repository.
LEVELS = {
    "h_attributes": ("hard", 3_545),
    "m_attributes": ("medium", 2_968),
    "e_attributes": ("easy", 1_299),
    "shuffle_negatives": ("trivial", 3_545),
}
_RULES = ("any_box", "merged_box")


class Chains(NamedTuple):
    """What is kept of an image: its phrases, which chain each means, and the boxes of each chain."""

    phrases: list[str]
    chains: list[int]
    boxes: list[np.ndarray]  # [m, 4] each, y0, x0, y1, x1


class Entities(Task):
    """The test split of Flickr30k Entities (1,000 images, not Karpathy's)."""

    def __init__(self, folder: Path, published: Published, config):
        """Looks where the files are.

        Raises:
          DataSourceError: one is missing.
        """
        self._folder, self._published = folder, published
        if not (folder / "test.txt").is_file():
            raise DataSourceError(f"{folder} has no test.txt, the ids of the test split")
        self._images = sets.images_of(folder, "flickr30k-images")
        self.source = (folder / "test.txt").read_text(encoding="utf-8").split()
        self._unrelated = entities.unrelated(folder)
        shape, features = shape_of(config.data), _plain(config)
        self._grid = clip.grid(config)
        dense = dict.fromkeys(feature.rpartition("_")[2] for feature in features)
        self.looks = {
            "boxes": Look(shape, features, False),
            "patches": Look(shape, tuple(f"cover_{way}" for way in dense), False),
        }

    @property
    def metrics(self) -> list[str]:
        pointing = [
            f"pointing_{name.rpartition('_')[2]}/{rule}" for name in self.looks["patches"].features for rule in _RULES
        ]
        ranks = [f"{rule}_r{k}" for rule in _RULES for k in grounding.DEPTHS]
        return pointing + [f"{feature}/{name}" for feature in self.looks["boxes"].features for name in ranks]

    @property
    def identity(self) -> str:
        kinds = (("Sentences", "txt"), ("Annotations", "xml"))
        paths = [self._folder / kind / f"{name}.{ending}" for kind, ending in kinds for name in self.source]
        paths += [self._images / f"{name}.jpg" for name in self.source]
        text = repr((protocol.fingerprint(paths), sorted(self._unrelated), self.looks))
        return hashlib.sha256(text.encode()).hexdigest()

    def prepare(self, example: str, view: View) -> Prepared:
        """The image squashed, and all boxes of its chains: each one, then the merged ones, then its patches."""
        try:
            data = protocol.read_image(self._images, f"{example}.jpg")
            facts = self._facts(example, protocol.image_size(data))
            pixels = framing.squashed(decoding.decode(data), view.shape, Image.Resampling.BICUBIC)
        except (protocol.BadSample, RecordError) as error:
            raise RecordError(f"image {example}: {error}") from error
        boxes = np.array([*_each(facts), *_merged(facts)], np.float32).reshape(-1, 4)
        seen = {"boxes": Seen(pixels, boxes), "patches": Seen(pixels, grounding.cells(self._grid))}
        return Prepared(pixels, NO_BOXES, facts, seen)

    def _facts(self, name: str, size: tuple[int, int]) -> Chains:
        chains = entities.chains(protocol.inside(self._folder / "Annotations", f"{name}.xml"), size)
        sentences = entities.sentences(protocol.inside(self._folder / "Sentences", f"{name}.txt"))
        kept = [each for number, each in enumerate(sentences) if (name, number + 1) not in self._unrelated]
        names = [chain for chain, boxes in chains.items() if boxes and chain != entities.NOT_VISUAL]
        queries = [
            (sentence.text[start:end], names.index(chain))
            for sentence in kept
            for start, end, chain, _ in sentence.phrases
            if chain in names
        ]
        boxes = [np.array(chains[chain], float).reshape(-1, 4) for chain in names]
        return Chains([phrase for phrase, _ in queries], [chain for _, chain in queries], boxes)

    def measure(self, vectors: Vectors) -> Found:
        """Both rules, for each feature."""
        facts: list[Chains] = vectors.facts
        texts = vectors.texts([phrase for each in facts for phrase in each.phrases])
        if not len(texts):
            return Found(left_out={"phrases": "no phrase has a box"})
        found, starts = Found(), np.cumsum([0, *(len(each.phrases) for each in facts)])
        queries = [texts[start:end] for start, end in itertools.pairwise(starts)]
        for feature, patches in vectors.looks["patches"].items():
            self._point(found, f"pointing_{feature.rpartition('_')[2]}", facts, queries, patches)
        for feature, regions in vectors.looks["boxes"].items():
            _rank(found, feature, facts, queries, regions)
        found.notes["images"] = f"{len(facts)} images, {len(texts)} phrases with a box; a tie is wrong"
        if len(facts) != self._published.size:
            found.partial["images"] = f"{len(facts)} images, the published set has {self._published.size}"
        return found

    def _point(self, found: Found, name: str, facts: list[Chains], queries: list[np.ndarray], patches: np.ndarray):
        hits: dict[str, list[tuple[float, float]]] = {rule: [] for rule in _RULES}  # right or not, and by chance
        for each, texts, own in zip(
            facts, queries, patches.reshape(len(facts), math.prod(self._grid), -1), strict=True
        ):
            for chain, scores in zip(each.chains, texts @ own.T, strict=True):
                boxes = each.boxes[chain]
                for rule, targets in (("any_box", boxes), ("merged_box", grounding.merged(boxes)[None])):
                    there = grounding.inside(self._grid, targets)
                    right = there.any() and not grounding.before(scores, there)
                    hits[rule].append((float(right), float(there.mean())))
        for rule, values in hits.items():
            found.metrics[f"{name}/{rule}"], found.chance[f"{name}/{rule}"] = map(float, np.mean(values, axis=0))


def _rank(found: Found, feature: str, facts: list[Chains], queries: list[np.ndarray], regions: np.ndarray) -> None:
    ranks: dict[str, list[tuple[int, int, int]]] = {rule: [] for rule in _RULES}  # rank, right ones, candidates
    start = 0
    for each, texts in zip(facts, queries, strict=True):
        for rule, boxes in (("any_box", _each(each)), ("merged_box", _merged(each))):
            own, start = regions[start : start + len(boxes)], start + len(boxes)
            for chain, scores in zip(each.chains, texts @ own.T if len(texts) else (), strict=True):
                target = each.boxes[chain] if rule == "any_box" else grounding.merged(each.boxes[chain])[None]
                right = np.asarray((grounding.overlaps(np.array(boxes), target) >= grounding.OVERLAP).any(axis=1))
                if right.any():
                    ranks[rule].append((grounding.before(scores, right), int(right.sum()), len(boxes)))
    for rule, values in ranks.items():
        for k in grounding.DEPTHS:
            name = f"{feature}/{rule}_r{k}"
            found.metrics[name] = float(np.mean([rank < k for rank, _, _ in values]))
            found.chance[name] = float(np.mean([grounding.chance(right, count, k) for _, right, count in values]))


def _each(facts: Chains) -> list[np.ndarray]:
    return [box for boxes in facts.boxes for box in boxes]


def _merged(facts: Chains) -> list[np.ndarray]:
    return [grounding.merged(boxes) for boxes in facts.boxes]


class Choice(NamedTuple):
    """A box with what it is and ten things that it is not."""

    level: str
    box: tuple[float, float, float, float]  # x, y, width, height in pixels
    positive: str
    negatives: tuple[str, ...]


class FgOvd(Task):
    """FG-OVD (Bianchi et al. 2024) as FG-CLIP asks it: which of eleven descriptions is that of the box?"""

    def __init__(self, folder: Path, config):
        """Reads the files.

        Raises:
          DataSourceError: there is none, one cannot be read, or the images are missing.
        """
        self._images = sets.images_of(folder, "val2017").parent
        self._there = [name for name in LEVELS if (folder / f"{name}_llava.jsonl").is_file()]
        if not self._there:
            raise DataSourceError(f"{folder} has none of {', '.join(f'{name}_llava.jsonl' for name in LEVELS)}")
        rows: dict[str, list[Choice]] = {}
        for name in self._there:
            for image, choice in _choices(folder / f"{name}_llava.jsonl", LEVELS[name][0]):
                rows.setdefault(image, []).append(choice)
        self.source = sorted(rows.items())
        self.looks = {"boxes": Look(shape_of(config.data), _plain(config), False)}

    @property
    def metrics(self) -> list[str]:
        levels = [LEVELS[name][0] for name in self._there]
        return [
            f"{level}/{feature}/{name}"
            for level in levels
            for feature in self.looks["boxes"].features
            for name in ("top1", "top1_ties_right")
        ]

    @functools.cached_property
    def identity(self) -> str:
        facts = protocol.fingerprint([self._images / image for image, _ in self.source])
        return hashlib.sha256(repr((self.source, facts, self.looks)).encode()).hexdigest()

    def prepare(self, example: tuple[str, list[Choice]], view: View) -> Prepared:
        """The image squashed (bicubic, as FG-CLIP does), decoded once for all questions about it."""
        name, choices = example
        try:
            picture = decoding.decode(protocol.read_image(self._images, name))
        except (protocol.BadSample, RecordError) as error:
            raise RecordError(f"{name}: {error}") from error
        pixels = framing.squashed(picture, view.shape, Image.Resampling.BICUBIC)
        boxes = framing.shares(np.array([choice.box for choice in choices]), picture.size)
        return Prepared(pixels, NO_BOXES, choices, {"boxes": Seen(pixels, boxes)})

    def measure(self, vectors: Vectors) -> Found:
        """Strict, and as FG-CLIP counts, where a tie is right."""
        choices: list[Choice] = [choice for own in vectors.facts for choice in own]
        levels, found = np.array([choice.level for choice in choices]), Found()
        questions = [vectors.texts([choice.positive, *choice.negatives]) for choice in choices]
        for feature, regions in vectors.looks["boxes"].items():
            scores = [texts @ region for texts, region in zip(questions, regions, strict=True)]
            right = np.array([[own[0] > own[1:].max(), own[0] >= own[1:].max()] for own in scores])
            for level in dict.fromkeys(levels):
                name, there = f"{level}/{feature}/top1", levels == level
                found.metrics[name], found.metrics[f"{name}_ties_right"] = map(float, right[there].mean(0))
                found.chance[name] = float(np.mean([1 / len(questions[i]) for i in np.flatnonzero(there)]))
                found.chance[f"{name}_ties_right"] = found.chance[name]
        for level, count in (LEVELS[name] for name in self._there):
            if (levels == level).sum() != count:
                found.partial[level] = f"{(levels == level).sum()} boxes, published are {count}"
        found.notes["boxes"] = f"{len(choices)} boxes; a tie is wrong, in *_ties_right it is right"
        return found


def _choices(path: Path, level: str) -> list[tuple[str, Choice]]:
    """The rows of a file, each with its image below COCO's folder.

    Raises:
      DataSourceError: it cannot be read, or a row lacks a field.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            row: dict[str, Any] = json.loads(line)
            x, y, width, height = map(float, row["bbox"])
            choice = Choice(level, (x, y, width, height), row["pos_expression"][0], tuple(row["neg_expression"]))
            found.append((row["img_path"], choice))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataSourceError(f"{path}, line {number + 1}: {error!r}") from error
    return found


def _plain(config) -> tuple[str, ...]:
    """The chosen features that need a box alone.

    Raises:
      DataSourceError: there is none.
    """
    found = tuple(name for name in chosen(config) if name != "crop" and not name.startswith("mask_"))
    if not found:
        raise DataSourceError(
            f"config.evaluation.box_features {config.evaluation.box_features} has none that is read from a box alone"
        )
    return found


class GroundingSuite(Suite):
    """Both sets."""

    name = "grounding"

    def tasks(self, config) -> dict[str, Task | str]:
        root = config.evaluation.data
        return {
            "flickr30k_entities": sets.opened(root, _ENTITIES, lambda folder, own: Entities(folder, own, config)),
            "fg_ovd": sets.opened(root, _FG_OVD, lambda folder, _: FgOvd(folder, config)),
        }


SUITE = GroundingSuite()
