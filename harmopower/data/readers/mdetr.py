"""MDETR's grounding files (GoldG): captions whose words name boxes, of Flickr30k, Visual Genome, COCO and GQA.

`final_flickr_{separate,merged}GT_{split}.json` and `final_mixed_{split}.json` are laid out as COCO's:

    {"images": [{"id": 0, "file_name": "1000092795.jpg", "width": 500, "height": 333,
                 "caption": "Two young guys with shaggy hair look at their hands .", "data_source": "vg"}],
     "annotations": [{"image_id": 0, "bbox": [0.0, 3.0, 498.0, 329.0], "tokens_positive": [[0, 14]]}]}

`tokens_positive` are ranges of characters of the caption. One region for each range of a box, since a phrase may be
named in pieces; a box without a range has no span. An entry is one caption: several entries have the same picture.
The mixed file says where a picture is from, `data_source` coco or vg: `--images` of COCO's train2014, `--vg-images` of
Visual Genome's folder. Boxes are x, y, width, height in pixels and clipped to the image, as in ashkamath/mdetr,
datasets/coco.py and datasets/mixed.py; crowds are left out.
"""

import argparse
import collections
from collections.abc import Iterator
import functools
from pathlib import Path

from harmopower.data.readers import annotation_files, boxes, protocol
from harmopower.data.readers.protocol import BadSample


class Reader(protocol.Reader):
    """MDETR's files of captions with grounded words: Flickr30k, Visual Genome, COCO, GQA."""

    example = (
        "python -m tools.prepare mdetr --input train=final_flickr_separateGT_train.json --images flickr30k-images "
        "--output data/flickr_grounded"
    )
    data_set = "mdetr"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._folders = {"": annotation_files.folder_of(options.images, "--images")}
        if options.vg_images:
            self._folders["vg"] = annotation_files.folder_of(options.vg_images, "--vg-images")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "final_flickr_*GT_*.json, final_mixed_*.json")
        parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images (mixed: COCO's)")
        parser.add_argument("--vg-images", metavar="DIR", help="of the mixed file: Visual Genome's images")

    @functools.cache  # noqa: B019 (a reader lives as long as its process)
    def _file(self, number: int) -> tuple[list, dict]:
        """The entries of a file, and their annotations by id."""
        content = annotation_files.load(self.inputs[number][1], "images", "annotations")
        found = collections.defaultdict(list)
        for annotation in content["annotations"]:
            if isinstance(annotation, dict) and not annotation.get("iscrowd", 0):
                found[annotation.get("image_id")].append(annotation)
        return content["images"], found

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of the entries; `place` is the first, the one behind the last, the input."""
        for number, (split, path) in enumerate(self.inputs):
            places = (annotation_files.place(self._folder(entry), entry) for entry in self._file(number)[0])
            yield from annotation_files.units(path, split, places, number)

    def _folder(self, entry) -> Path:
        source = entry.get("data_source", "") if isinstance(entry, dict) else ""
        return self._folders.get(source, self._folders[""])

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The entries of a range."""
        first, last, number = unit.place
        entries, annotations = self._file(number)
        for place, entry in enumerate(entries[first:last], start=first):
            name = f"{number}-{place}" if len(self.inputs) > 1 else f"{place}"
            yield protocol.attempt(name, self._found, entry, annotations, unit.split, name)

    def _found(self, entry, annotations: dict, split: str, name: str) -> protocol.Found:
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise BadSample("missing_key", "the entry has no file_name", entry if isinstance(entry, dict) else ())
        if not isinstance(entry.get("caption"), str):
            raise BadSample("missing_key", f"{entry['file_name']} has no caption", entry)
        image = protocol.read_image(self._folder(entry), entry["file_name"])
        size = protocol.image_size(image)
        regions = [part for found in annotations.get(entry.get("id"), []) for part in _regions(found, size)]
        # The caption stays as it is, white space too: the ranges count its characters.
        example = {"id": name, "image": image, "captions": [entry["caption"]], "regions": regions}
        where = f"{entry['file_name']} (id {entry.get('id')})"
        return protocol.Found(example, split, annotation_files.coco_aliases(entry["file_name"]), where=where)


def _regions(annotation: dict, size: tuple[int, int]) -> Iterator[dict]:
    """A region for every range of characters that names the box."""
    try:
        box = annotation_files.clip(boxes.normalise(annotation["bbox"], "xywh_pixels", size))
        spans = [(0, start, end) for start, end in annotation.get("tokens_positive", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise BadSample(
            "bad_box", f"annotation {annotation.get('id')}: no bbox and tokens_positive: {error}"
        ) from error
    for span in spans or [(-1, -1, -1)]:
        yield annotation_files.region(box, span)
