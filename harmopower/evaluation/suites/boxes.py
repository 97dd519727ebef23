"""Box classification by three protocols that must not be mixed; an image is decoded once for all of them.

    ROOT/coco/annotations/panoptic_val2017.json     ROOT/coco/annotations/panoptic_val2017/*.png
    ROOT/coco/annotations/instances_val2017.json    ROOT/coco/val2017/*.jpg
    ROOT/lvis/lvis_v1_val.json                      ROOT/coco/{train2017,val2017}/*.jpg

- `clipself` (wusize/CLIPSelf `src/training/{data,zero_shot}.py`): the first 100 panoptic segments of an image, those of
  8^2 to 1024^2 pixels, 133 classes; the longest side 1024, padded; means over classes, things and stuff apart.
- `fineclip` (Timsty1/FineCLIP `training/{data,zero_shot}.py`): the same boxes, the image squashed to the model's size
  (bilinear), one mean over all classes: HarmoCLIP's most likely frame.
- `fgclip` (360CVGroup/FG-CLIP, branch v1.0 `fgclip/eval/in_1K/coco_box_cls.py`): instances, all of them, 80 classes or
  LVIS's 1,203, squashed (bicubic), top-1 and top-5 over boxes.

The first two normalise patch tokens before they pool them, as their authors do; the third does not. Masks are those of
the panoptic segments, under `fgclip` the instances' own; a crop is the same in `clipself` and `fineclip`, and encoded
once.
"""

from collections.abc import Iterator
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from harmopower.data import images as decoding
from harmopower.data.readers import coco
from harmopower.data.records import DataSourceError
from harmopower.data.transforms import shape_of
from harmopower.errors import ConfigError, RecordError
from harmopower.evaluation import boxes, framing, prompts, segmentations, sets
from harmopower.evaluation.coco_files import Annotated, Photo, Photos
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suite import (
    FEATURES,
    NO_BOXES,
    NO_CROPS,
    NO_MASKS,
    Found,
    Look,
    Prepared,
    Seen,
    Suite,
    Task,
    Vectors,
    View,
)
from harmopower.models import clip, presets

_COCO = Published(
    "coco",
    "",
    5_000,
    get="COCO's val2017/, annotations/instances_val2017.json, annotations/panoptic_val2017.json and, unpacked, its PNG "
    "files annotations/panoptic_val2017/",
)
_LVIS = Published("lvis", "", 19_809, get="lvis_v1_val.json; its images are those of coco/train2017 and coco/val2017")
_MOST, _SMALLEST, _LARGEST = 100, 8**2, 1024**2  # segments of an image; pixels of a box
_SIDE, _SIDE_OF_14 = 1024, 896  # what CLIPSelf's scripts pad to, with patches of 16 and of 14


class Boxes(Task):
    """The protocols that one set's files allow."""

    def __init__(self, photos: Photos, published: Published, config):
        """Says how the images are looked at.

        Raises:
          ConfigError: `evaluation.box_features` names something else.
          DataSourceError: the files allow none of them.
        """
        self.source, self._published, self._shape = photos, published, shape_of(config.data)
        features, patch = chosen(config), presets.get(config.model.preset).patch_size
        usual = _SIDE_OF_14 if patch == 14 else _SIDE
        side = config.evaluation.padded_size or usual
        if side % patch:
            raise ConfigError(
                f"config.evaluation.padded_size {side} is no multiple of the patch size {patch} of "
                f"config.model.preset {config.model.preset}"
            )
        self._unusual = side if side != usual else 0
        self._grids = {"clipself": (side // patch, side // patch)} | dict.fromkeys(
            ("fineclip", "fgclip"), clip.grid(config)
        )
        self._features, self._lacks = self._measured(features)
        shapes = {"clipself": ((side, side), True), "fineclip": (self._shape, True), "fgclip": (self._shape, False)}
        self.looks = {}
        for protocol, own in self._features.items():
            # The crops of `fineclip` are those of `clipself`.
            encoded = tuple(feature for feature in own if protocol != "fineclip" or feature != "crop")
            if encoded:
                shape, unit_tokens = shapes[protocol]
                self.looks[protocol] = Look(shape, encoded, unit_tokens)

    def _measured(self, features: tuple[str, ...]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
        """Protocol -> the features that its files allow; and why others are not there, by their names."""
        kinds, lacks = self.source.kinds, {}
        found = {protocol: features for protocol in ("clipself", "fineclip") if "panoptic" in kinds}
        if "instances" in kinds:
            masks = tuple(feature for feature in features if feature.startswith("mask_"))
            missing = kinds["instances"].unsegmented if masks else 0
            found["fgclip"] = tuple(feature for feature in features if not missing or feature not in masks)
            if missing:
                everyone = sum(len(own.labels) for own in kinds["instances"].rows.values())
                reason = (
                    f"{missing} of {everyone} instances have no `segmentation` that can be drawn, polygons or runs; "
                    "take the published file of annotations, or leave masks out of config.evaluation.box_features"
                )
                lacks = dict.fromkeys((f"fgclip/{feature}" for feature in masks), reason)
        found = {protocol: own for protocol, own in found.items() if own}
        if not found:
            raise DataSourceError("; ".join(sorted(set(lacks.values()))))
        return found, lacks

    @property
    def metrics(self) -> list[str]:
        return [
            f"{protocol}/{feature}/{metric}"
            for protocol, features in self._features.items()
            for feature in features
            for metric in boxes.METRICS[protocol]
        ]

    @property
    def identity(self) -> str:
        text = repr((self.source.identity, self.looks, self._features, prompts.VILD, prompts.IMAGENET))
        return hashlib.sha256(text.encode()).hexdigest()

    def prepare(self, example: Photo, view: View) -> Prepared:
        """All looks of one decoded image; the facts are the labels, by protocol."""
        try:
            picture = decoding.decode(example.image)
            seen, facts = {}, {}
            if "clipself" in self._features:
                self._panoptic(picture, example, seen, facts)
            if "fgclip" in self._features:
                self._instances(picture, example, seen, facts)
        except RecordError as error:
            raise RecordError(f"{example.where}: {error}") from error
        return Prepared(framing.squashed(picture, view.shape, Image.Resampling.BICUBIC), NO_BOXES, facts, seen)

    def _panoptic(self, picture: Image.Image, example: Photo, seen: dict, facts: dict) -> None:
        own = example.annotated.get("panoptic", _NONE)
        things = self.source.kinds["panoptic"].things
        ids = coco.segment_ids(np.asarray(decoding.decode(example.png))) if example.png else np.zeros((1, 1), np.int32)
        kept, found = [], []
        for place in range(min(len(own.labels), _MOST)):
            is_thing = things[own.labels[place]]
            box = own.boxes[place] if is_thing else np.array(framing.extent(ids == own.ids[place]), float)
            if _SMALLEST <= box[2] * box[3] <= _LARGEST:
                kept.append(place)
                found.append(box)
        pixels, kind, facts["clipself"] = np.array(found).reshape(-1, 4), things[own.labels[kept]], own.labels[kept]
        seen["clipself"] = Seen(
            framing.padded(picture, self.looks["clipself"].shape),
            framing.in_padded(pixels, picture.size),
            self._masks("clipself", (ids == segment for segment in own.ids[kept])),
            self._crops("clipself", picture, pixels, kind),
        )
        facts["fineclip"] = facts["clipself"]
        if "fineclip" in self.looks:
            seen["fineclip"] = Seen(
                framing.squashed(picture, self._shape, Image.Resampling.BILINEAR),
                framing.shares(pixels, picture.size),
                self._masks("fineclip", (ids == segment for segment in own.ids[kept])),
            )

    def _instances(self, picture: Image.Image, example: Photo, seen: dict, facts: dict) -> None:
        own, shape = example.annotated.get("instances", _NONE), (picture.height, picture.width)
        facts["fgclip"] = own.labels
        if "fgclip" in self.looks:
            seen["fgclip"] = Seen(
                framing.squashed(picture, self._shape, Image.Resampling.BICUBIC),
                framing.shares(own.boxes, picture.size),
                self._masks("fgclip", (segmentations.mask(each, shape) for each in own.segmentations if each)),
                self._crops("fgclip", picture, own.boxes, np.ones(len(own.labels), bool)),
            )

    def _wants(self, protocol: str, feature: str) -> bool:
        return any(name.startswith(feature) for name in self.looks[protocol].features)

    def _masks(self, protocol: str, masks: Iterator[np.ndarray]) -> np.ndarray:
        """Masks [H, W] as patches of what a look sees; drawn one after the other, and only where they are wanted."""
        if not self._wants(protocol, "mask"):
            return NO_MASKS
        grid = self._grids[protocol]
        padded = protocol == "clipself"
        found = [framing.patches(mask, grid[0]) if padded else framing.touched(mask, grid) for mask in masks]
        return np.array(found, bool).reshape(-1, grid[0] * grid[1])

    def _crops(self, protocol: str, picture: Image.Image, pixels: np.ndarray, things: np.ndarray) -> np.ndarray:
        if not self._wants(protocol, "crop"):
            return NO_CROPS
        shape = self._shape
        found = [framing.cut_out(picture, box, shape, bool(thing)) for box, thing in zip(pixels, things, strict=True)]
        return np.array(found, np.uint8).reshape(-1, *shape, 3)

    def measure(self, vectors: Vectors) -> Found:
        """Each protocol's figures for each feature, and who is taken for whom."""
        found, classes = Found(left_out=dict(self._lacks)), {}
        for protocol, features in self._features.items():
            kind = self.source.kinds["instances" if protocol == "fgclip" else "panoptic"]
            write = prompts.imagenet if protocol == "fgclip" else prompts.vild
            if write not in classes:
                classes[write] = vectors.classes([write(name) for name in kind.names])
            labels = np.concatenate([facts[protocol] for facts in vectors.facts])
            if not len(labels):
                found.left_out[protocol] = "no image has a box"
                continue
            found.notes[protocol] = f"{len(labels)} boxes of {len(np.unique(labels))} of {len(kind.names)} classes"
            for feature in features:
                seen_by = "clipself" if (protocol, feature) == ("fineclip", "crop") else protocol
                part = boxes.score(protocol, vectors.looks[seen_by][feature], classes[write], labels, kind)
                found.add(part, f"{protocol}/{feature}/")
        self._compare(found, len(vectors.facts))
        return found

    def _compare(self, found: Found, images: int) -> None:
        if images != self._published.size:
            found.partial["images"] = f"{images} images, the published set has {self._published.size}"
        if self._unusual:
            found.partial["clipself"] = f"padded to {self._unusual} pixels by config.evaluation.padded_size"
        found.notes["images"] = f"{images} images; a tie is wrong"


_NONE = Annotated(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, np.int64))


def chosen(config) -> tuple[str, ...]:
    """The features of `config.evaluation.box_features`.

    Raises:
      ConfigError: one is unknown, or there is none.
    """
    found = tuple(dict.fromkeys(name.strip() for name in config.evaluation.box_features.split(",") if name.strip()))
    unknown = [name for name in found if name not in FEATURES]
    if unknown or not found:
        raise ConfigError(
            f"config.evaluation.box_features {config.evaluation.box_features!r}: choose of {', '.join(FEATURES)}"
        )
    return found


class BoxesSuite(Suite):
    """COCO's val2017 by all three protocols, LVIS's validation by the third."""

    name = "boxes"

    def tasks(self, config) -> dict[str, Task | str]:
        masks = any(feature.startswith("mask_") for feature in chosen(config))
        root = config.evaluation.data
        return {
            "coco_boxes": sets.opened(root, _COCO, lambda folder, own: Boxes(_coco(folder, masks), own, config)),
            "lvis_boxes": sets.opened(root, _LVIS, lambda folder, own: Boxes(_lvis(folder, masks), own, config)),
        }


def _coco(folder: Path, masks: bool) -> Photos:
    places = [folder / "annotations", folder]
    files = {kind: _first([place / f"{kind}_val2017.json" for place in places]) for kind in ("panoptic", "instances")}
    pngs = _first([place / "panoptic_val2017" for place in places])
    there = {kind: path for kind, path in files.items() if path and (kind != "panoptic" or pngs)}
    if not there:
        raise DataSourceError(
            f"{folder} has neither instances_val2017.json nor panoptic_val2017.json with its PNG files"
        )
    return Photos(there, sets.images_of(folder, "val2017"), pngs, masks)


def _lvis(folder: Path, masks: bool) -> Photos:
    places = [folder / "annotations", folder]
    file = _first([place / "lvis_v1_val.json" for place in places])
    if not file:
        raise DataSourceError(f"{folder} has no lvis_v1_val.json")
    return Photos({"instances": file}, sets.images_of(folder, "val2017").parent, segmented=masks)


def _first(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


SUITE = BoxesSuite()
