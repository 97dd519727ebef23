"""Scenes of emoji drawings: two to six things and how they lie, with captions, exact trees and boxes.

Layout, captions and grounds are those of the embedded scenes; the things are drawings that no one here has made, in
more than 500 classes. `train` shows one vendor's drawings, `test` and `test_unseen` another's. `test_unseen` shows the
pairs of things that are held out: one pair in ten, by a hash of the two names, which no other scene shows together. An
example is a function of (seed, split, index) and the drawings alone. All our choice.
"""

from collections.abc import Sequence
import dataclasses
import hashlib

import numpy as np
from PIL import Image

from harmopower.data import records, trees
from harmopower.data.scenes import drawing, grammar, world
from harmopower.data.scenes.vendors import Vendor
from harmopower.data.scenes.world import Scene, Thing

SPLITS = ("train", "test", "test_unseen")
KINDS = {"related": 0.5, "both": 0.1, "several": 0.4}  # two things with a relation, two without, three to six
HELD_OUT_OF = 10
_OTHER_THINGS = 12  # names tried in place of a thing, for a false caption
_LEAST_SHARE = 0.1  # of a thing's box that is filled with what is seen of it; of less, the scene is drawn anew


@dataclasses.dataclass(frozen=True)
class Makes:
    """What all examples of a data set share.

    Attributes:
      vendors: of each split.
      classes: the names of all things.
    """

    vendors: dict[str, Vendor]
    classes: Sequence[str]
    image_size: int = 64
    seed: int = 0


def is_held_out(first: str, second: str) -> bool:
    """Whether two things are shown together in `test_unseen` only."""
    text = "\n".join(sorted((first, second)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % HELD_OUT_OF == 0


def make_example(makes: Makes, split: str, index: int) -> records.Example:
    """The `index`-th example of a split (see `records` for its fields); only test splits carry negatives."""
    attempt = -1
    while True:
        attempt += 1
        rng = np.random.default_rng((makes.seed, SPLITS.index(split), index, attempt))
        scene = world.lay_out(sample(makes.classes, split, rng), rng)
        vendor = makes.vendors[split]
        sprite = lambda thing, size, rng, vendor=vendor: _sprite(vendor.drawing(thing.shape), thing, size)
        image, visible = drawing.draw(scene, makes.image_size, rng, sprite)
        if all(map(_can_be_seen, visible)):
            return _example(f"{split}-{index:06d}", makes, split, scene, (image, visible), rng)


def sample(classes: Sequence[str], split: str, rng: np.random.Generator) -> Scene:
    """Draws the things of a scene, all different, and the relations that shall hold."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    count = int(rng.integers(3, 7)) if kind == "several" else 2
    names: list[str] = []
    while len(names) < count:
        names = _together([classes[int(i)] for i in rng.permutation(len(classes))], count, split == "test_unseen")
    sizes = ("small",) if count > 4 else world.SIZES
    things = tuple(Thing("", name, "", str(rng.choice(sizes))) for name in names)
    return Scene(things, world.relations_of(rng, kind, count, list(world.DIRECTIONS)))


def _together(candidates: Sequence[str], count: int, unseen: bool) -> list[str]:
    """The first candidates that may be shown together; `unseen`: the first two are a pair that is held out."""
    names: list[str] = []
    for name in candidates:
        if len(names) < count and all(is_held_out(name, other) == (unseen and len(names) == 1) for other in names):
            names.append(name)
    return names


def _can_be_seen(cover: np.ndarray) -> bool:
    """Whether enough of a thing is seen to have a box."""
    seen = cover >= 0.5
    if not seen.any():
        return False
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return seen.sum() >= _LEAST_SHARE * (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])


def _example(name: str, makes: Makes, split: str, scene: Scene, drawn, rng) -> records.Example:
    image, visible = drawn
    statement, order = grammar.describe(_as_told(scene), rng)
    tree = grammar.tree(statement)
    caption, spans = grammar.text(tree), grammar.entity_spans(tree)
    phrases = trees.spans_from_penn(grammar.penn(tree), caption)
    regions = [
        {
            "box": drawing.visible_box(visible[i]),
            "caption": 0,
            "start": spans[place][0],
            "end": spans[place][1],
            "text": "",
            "label": scene.things[i].shape,
        }
        for place, i in enumerate(order)
    ]
    return {
        "id": name,
        "image": drawing.encode(image),
        "captions": [caption],
        "phrases": [{"caption": 0, "start": start, "end": end, "label": label} for start, end, label in phrases],
        "regions": regions,
        "negatives": [] if split == "train" else _negatives(makes.classes, statement, scene, rng),
    }


def _as_told(scene: Scene) -> Scene:
    """The scene of which sizes are told only where they differ: of five and six things all are small."""
    if len(scene.things) <= 4:
        return scene
    return dataclasses.replace(scene, things=tuple(dataclasses.replace(thing, size="") for thing in scene.things))


def _negatives(classes: Sequence[str], statement, scene: Scene, rng) -> list[dict]:
    others = tuple(classes[int(i)] for i in rng.choice(len(classes), min(_OTHER_THINGS, len(classes)), replace=False))
    found = grammar.negatives(statement, scene, (), rng, others)
    return [{"caption": 0, "kind": kind, "text": text} for kind, text in found]


def _sprite(picture: np.ndarray, thing: Thing, size: int):
    """Coverage [h, w], colours [h, w, 3] and the corner (top, left) of a drawing, cut at the picture's border."""
    side = 2 * thing.radius * size
    scale = side / max(picture.shape[:2])
    height, width = (max(round(scale * length), 1) for length in picture.shape[:2])
    layers = [_resized(picture[..., 3], width, height, thing.angle)]
    weight = picture[..., 3]  # what is transparent has no colour that could bleed into the rest
    layers += [_resized(picture[..., i] * weight, width, height, thing.angle) for i in range(3)]
    alpha = np.clip(layers[0], 0, 1)
    colours = np.stack(layers[1:], -1) / np.maximum(layers[0], 1e-3)[..., None]
    top, left = round(thing.y * size - alpha.shape[0] / 2), round(thing.x * size - alpha.shape[1] / 2)
    rows, columns = (slice(max(-at, 0), size - at) for at in (top, left))
    return alpha[rows, columns], np.clip(colours[rows, columns], 0, 255), (max(top, 0), max(left, 0))


def _resized(layer: np.ndarray, width: int, height: int, degrees: float) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(layer, np.float32))
    image = image.resize((width, height), Image.Resampling.BOX if width < layer.shape[1] else Image.Resampling.BILINEAR)
    return np.asarray(image.rotate(-degrees, Image.Resampling.BILINEAR, expand=True))


def metadata(makes: Makes) -> dict:
    """What is stored with the data set."""
    vendors = {split: makes.vendors[split].name for split in SPLITS}
    return {
        "classes": list(makes.classes),
        "vendors": vendors,
        "image_size": makes.image_size,
        "seed": makes.seed,
        "group_size": 1,
    }
