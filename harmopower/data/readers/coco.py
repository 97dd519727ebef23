"""COCO's files, and LVIS's: captions, boxes of things, boxes of stuff from panoptic segments.

    python -m tools.prepare coco --images train2017 --output data/coco \\
        --input train=captions_train2017.json train=instances_train2017.json train=panoptic_train2017.json \\
        --panoptic-masks panoptic_train2017

Every file says by its contents what it is, and all files of a split are joined by image id: captions (stripped of
white space, of which published ones have some), instances of COCO (80 of the category ids 1 to 90), of LVIS v1 (1,203,
no file names: the last two parts of `coco_url` are the path) or of Objects365, and panoptic segments, of which stuff is
taken beside instances, or everything where there are none. Images without boxes stay; so do images without captions if
`--caption-from-labels` makes them one. Crowds are left out, boxes are clipped to the image, those without area there
(2 in train2017) dropped and counted. A box becomes one region with its label, and one more for every caption that names
its category in whole words (`data/matching.py`); a row of a batch shows each box once (`records.regions_of`).

Stuff boxes: with `--panoptic-masks` the extent of the segment's mask, ids being R + 256 G + 65536 B, else the `bbox` of
the file. LVIS val has images of train2017, in a folder of that name: give the folder above both as `--images`.
Sources: cocodataset/cocoapi, cocodataset/panopticapi, lvis-dataset/lvis-api.
"""

import argparse
import collections
from collections.abc import Iterator
import dataclasses
import functools
from pathlib import Path

import numpy as np

from harmopower.data import images as decoding
from harmopower.data import matching
from harmopower.data.readers import annotation_files, boxes, protocol
from harmopower.data.readers.protocol import BadSample
from harmopower.errors import RecordError


@dataclasses.dataclass
class _Split:
    """What the files of a split say, by image id."""

    images: dict[int, dict] = dataclasses.field(default_factory=dict)
    captions: dict[int, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    things: dict[int, list[dict]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    segments: dict[int, dict] = dataclasses.field(default_factory=dict)
    labels: dict[int, str] = dataclasses.field(default_factory=dict)  # of instances, by category id
    classes: dict[int, dict] = dataclasses.field(default_factory=dict)  # of segments, by category id


class Reader(protocol.Reader):
    """COCO captions, instances and panoptic segments, and LVIS: labels as region texts, named words as spans."""

    example = (
        "python -m tools.prepare coco --images train2017 --output data/coco "
        "--input train=captions_train2017.json train=instances_train2017.json"
    )
    data_set = "coco"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._folder = annotation_files.folder_of(options.images, "--images")
        masks = options.panoptic_masks
        self._masks = annotation_files.folder_of(masks, "--panoptic-masks") if masks else None
        self._splits = tuple(dict.fromkeys(split for split, _ in self.inputs))

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "captions_*.json, instances_*.json, panoptic_*.json, lvis_v1_*.json")
        parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
        parser.add_argument("--panoptic-masks", metavar="DIR", help="folder of the PNG files of panoptic segments")
        parser.add_argument(
            "--caption-from-labels",
            action="store_true",
            help="an image without captions gets its labels as one, such as 'dog, bench' (default: it is left out)",
        )

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of the images in the order of their ids; `place` is the first, the one behind the last, the split."""
        for number, split in enumerate(self._splits):
            first = next(path for name, path in self.inputs if name == split)
            places = (self._place(image) for image in self._content(number).images.values())
            for unit in annotation_files.units(first, split, places, number):
                others = protocol.fingerprint(path for name, path in self.inputs if name == split)[1]
                yield dataclasses.replace(unit, fingerprint=f"{unit.fingerprint}-{others}")

    def _place(self, image: dict) -> str:
        try:
            return str(protocol.inside(self._folder, self._relative(image)))
        except BadSample:
            return ""  # it is reported when the image is read

    def _relative(self, image: dict) -> str:
        return path_of(image, self._folder)

    @functools.cache  # noqa: B019 (a reader lives as long as its process)
    def _content(self, number: int) -> _Split:
        found = _Split()
        for split, path in self.inputs:
            if split == self._splits[number]:
                try:
                    _add(found, path)
                except (KeyError, TypeError, AttributeError) as error:
                    raise protocol.ReaderError(f"--input {path} is not laid out as COCO's files: {error!r}") from error
        found.images = dict(sorted(found.images.items()))
        return found

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The images of a range."""
        first, last, number = unit.place
        content = self._content(number)
        for image in list(content.images.values())[first:last]:
            yield protocol.attempt(str(image["id"]), self._found, image, content, unit.split)

    def _found(self, image: dict, content: _Split, split: str) -> protocol.Found:
        name = self._relative(image)
        data = protocol.read_image(self._folder, name)
        captions = [text for text in content.captions[image["id"]] if text]
        labelled, notes = self._labelled(image, content, protocol.image_size(data))
        if not captions and self.options.caption_from_labels and labelled:
            captions = [", ".join(dict.fromkeys(label for _, label in labelled))]
        if not captions:
            raise BadSample("no_caption", f"{name} has no caption; add captions_*.json, or --caption-from-labels")
        regions = [region for box, label in labelled for region in _regions(box, label, captions)]
        example = {"id": str(image["id"]), "image": data, "captions": captions, "regions": regions}
        return protocol.Found(example, split, (f"coco:{image['id']}",), where=name, notes=tuple(notes))

    def _labelled(self, image: dict, content: _Split, size: tuple[int, int]) -> tuple[list, list]:
        """Boxes in shares with their labels, things first; and notes of what was dropped."""
        parts = [
            (part.get("bbox"), content.labels.get(part.get("category_id", -1))) for part in content.things[image["id"]]
        ]
        found, notes = [], []
        for number, (box, label) in enumerate([*parts, *self._stuff(image, content)]):
            try:
                found.append((_box(box, size), label or ""))
            except BadSample as error:
                notes.append((error.reason, f"image {image['id']} box {number}: {error}"))
        return found, notes

    def _stuff(self, image: dict, content: _Split) -> Iterator[tuple[list, str]]:
        """Boxes in pixels (x, y, width, height) of the segments that instances do not give, with their labels."""
        found = content.segments.get(image["id"])
        if found is None:
            return
        mask = self._mask(found["file_name"]) if self._masks else None
        for segment in found["segments_info"]:
            kind = content.classes.get(segment.get("category_id"), {"name": ""})
            if not segment.get("iscrowd") and not (content.labels and kind.get("isthing")):
                box = segment.get("bbox") if mask is None else _extent(mask == segment.get("id"))
                yield box, readable(kind["name"])

    def _mask(self, name: str) -> np.ndarray:
        try:
            pixels = np.asarray(decoding.decode(protocol.read_image(self._masks, name)))
        except RecordError as error:
            raise BadSample("unreadable", f"the panoptic mask {name}: {error}") from error
        return segment_ids(pixels)


def path_of(image: dict, folder: Path) -> str:
    """Where an image is below the folder: `file_name`, or the end of `coco_url` (LVIS) with its folder if that exists.

    Raises:
      BadSample: the entry has neither.
    """
    if isinstance(image.get("file_name"), str):
        return image["file_name"]
    if not isinstance(image.get("coco_url"), str):
        raise BadSample("missing_key", f"image {image.get('id')} has neither file_name nor coco_url", image)
    below, name = image["coco_url"].split("/")[-2:]
    return f"{below}/{name}" if (folder / below).is_dir() else name


def _add(found: _Split, path: Path) -> None:
    """Adds a file's images and annotations to those of its split."""
    content = annotation_files.load(path, "images", "annotations")
    categories = content.get("categories", [])
    found.images |= {image["id"]: found.images.get(image["id"], {}) | image for image in content["images"]}
    kinds = {"caption", "segments_info", "bbox"}
    kind = next((kinds & part.keys() for part in content["annotations"] if kinds & part.keys()), set())
    if "caption" in kind:
        for part in content["annotations"]:
            found.captions[part["image_id"]].append(part["caption"].strip())
    elif "segments_info" in kind:
        found.segments |= {part["image_id"]: part for part in content["annotations"] if part["segments_info"]}
        found.classes |= {part["id"]: part for part in categories}
    elif "bbox" in kind:
        found.labels |= {part["id"]: readable(part["name"]) for part in categories}
        for part in content["annotations"]:
            if not part.get("iscrowd"):
                found.things[part["image_id"]].append(part)
    elif content["annotations"]:
        there = ", ".join(content["annotations"][0])
        raise protocol.ReaderError(
            f"--input {path}: its annotations have no caption, bbox or segments_info, but: {there}"
        )


def readable(name: str) -> str:
    """A category's name as words: `traffic_light` (LVIS) and `Sneakers/Shoes` (Objects365) as CLIPSelf writes them."""
    return name.replace("_", " ").replace("/", " or ")


def segment_ids(pixels: np.ndarray) -> np.ndarray:
    """The id of each pixel of a panoptic PNG: uint8 [H, W, 3] -> int32 [H, W], R + 256 G + 65536 B."""
    return pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def _extent(mask: np.ndarray) -> list[int]:
    """The box around a mask, x, y, width, height; of no size for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


def _box(box, size: tuple[int, int]) -> list[float]:
    """The part of a pixel box in the image, in shares.

    Raises:
      BadSample: it is none, or has no area there.
    """
    try:
        found = annotation_files.clip(boxes.normalise([float(value) for value in box], "xywh_pixels", size))
    except (TypeError, ValueError) as error:
        raise BadSample("bad_box", f"bbox {box!r} is not [x, y, width, height]") from error
    if any(value != value for value in found):
        raise BadSample("nan_box", f"bbox {box!r}")
    if not (found[0] < found[2] and found[1] < found[3]):
        raise BadSample("empty_box", f"bbox {box!r} has no area in an image of {size[0]} x {size[1]}")
    return found


def _regions(box: list[float], label: str, captions: list[str]) -> Iterator[dict]:
    yield annotation_files.region(box, label=label)
    for number, caption in enumerate(captions):
        span = matching.find((label,), caption) if label else None
        if span:
            yield annotation_files.region(box, (number, *span), label=label)
