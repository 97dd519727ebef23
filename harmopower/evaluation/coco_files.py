"""COCO's and LVIS's annotations as their publishers lay them out, whole: nothing is filtered, crowds are in.

    coco/annotations/panoptic_val2017.json   coco/annotations/panoptic_val2017/*.png   coco/val2017/*.jpg
    coco/annotations/instances_val2017.json  lvis/lvis_v1_val.json

Their fields: harmopower/data/readers/coco.py, which prepares training data of the same files.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harmopower.data.readers import annotation_files, coco, protocol
from harmopower.data.records import DataSourceError
from harmopower.errors import RecordError
from harmopower.evaluation import segmentations
from harmopower.evaluation.segmentations import Polygons, Runs


class Annotated(NamedTuple):
    """The boxes of an image."""

    boxes: np.ndarray  # float64 [m, 4], x, y, width, height in pixels, as they stand in the file
    labels: np.ndarray  # int [m], numbers of classes
    ids: np.ndarray  # int64 [m], of segments in the PNG
    png: str = ""
    segmentations: tuple[Polygons | Runs | None, ...] = ()  # m of instances, where they are asked for


class Photo(NamedTuple):
    """An image with its boxes by kind, and the PNG of its segments."""

    image: bytes
    annotated: Mapping[str, Annotated]
    png: bytes
    where: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file of annotations.

    Attributes:
      names: of the classes, in the order of their ids.
      things: bool [C], which of them are things; those of a file that does not say are.
      rows: image id -> its boxes.
      unsegmented: how many boxes have no segmentation; 0 where none are asked for, or a PNG has them.
    """

    names: list[str]
    things: np.ndarray
    rows: dict[int, Annotated]
    unsegmented: int = 0


class Photos:
    """The images of some files of annotations, by random access; picklable."""

    def __init__(self, files: Mapping[str, Path], images: Path, pngs: Path | None = None, segmented=False):
        """Reads the files.

        Args:
          files: `panoptic` or `instances` -> file.
          images: their folder; `pngs`: that of the segments.
          segmented: whether the segmentations of instances are kept; those of LVIS's validation take 150 MB.

        Raises:
          DataSourceError: a file is not laid out so.
        """
        self._images, self._pngs, self._files = images, pngs, list(files.values())
        self.kinds, entries = {}, {}
        for kind, path in files.items():
            self.kinds[kind], own = _read(path, segmented and kind == "instances")
            entries |= own
        self._entries = [entries[image] for image in sorted(entries)]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Photo:
        """Raises: RecordError: a file is not there."""
        entry = self._entries[index]
        own = {kind: found.rows[entry["id"]] for kind, found in self.kinds.items() if entry["id"] in found.rows}
        png = own["panoptic"].png if "panoptic" in own else ""
        try:
            name = coco.path_of(entry, self._images)
            image = protocol.read_image(self._images, name)
            return Photo(image, own, protocol.read_image(self._pngs, png) if png else b"", f"{self._images / name}")
        except protocol.BadSample as error:
            raise RecordError(f"image {entry['id']}: {error}") from error

    @property
    def identity(self) -> str:
        """Equal as long as nobody touches the files of annotations, or exchanges images."""
        names = [self._images / coco.path_of(entry, self._images) for entry in self._entries]
        return protocol.fingerprint([*self._files, *names])[1]


def _read(path: Path, segmented: bool) -> tuple[Kind, dict[int, dict]]:
    """What a file says of its images, and the images by id.

    Raises:
      DataSourceError: it cannot be read, or is laid out otherwise.
    """
    try:
        content = annotation_files.load(path, "images", "annotations", "categories")
        categories = sorted(content["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: number for number, category in enumerate(categories)}
        rows = _rows(content["annotations"], numbers, segmented)
        names = [category["name"] for category in categories]
        things = np.array([bool(category.get("isthing", 1)) for category in categories])
        unsegmented = sum(own.segmentations.count(None) for own in rows.values())
        return Kind(names, things, rows, unsegmented), {image["id"]: image for image in content["images"]}
    except protocol.ReaderError as error:
        raise DataSourceError(str(error).removeprefix("--input ")) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataSourceError(f"{path} is not laid out as COCO's files: {error!r}") from error


def _rows(annotations: list[dict], numbers: dict[int, int], segmented: bool) -> dict[int, Annotated]:
    parts: dict[int, list[dict]] = {}
    pngs: dict[int, str] = {}
    for annotation in annotations:
        own = parts.setdefault(annotation["image_id"], [])
        own.extend(annotation.get("segments_info", [annotation]))
        pngs[annotation["image_id"]] = annotation.get("file_name", "") if "segments_info" in annotation else ""
    return {
        image: Annotated(
            np.array([part["bbox"] for part in own], np.float64).reshape(-1, 4),
            np.array([numbers[part["category_id"]] for part in own], int),
            np.array([part["id"] for part in own], np.int64),
            pngs[image],
            tuple(segmentations.read(part.get("segmentation")) for part in own) if segmented else (),
        )
        for image, own in parts.items()
    }
