"""Karpathy's splits of COCO, Flickr30k and Flickr8k: `dataset_coco.json` and its like, five captions an image.

    {"images": [{"filename": "COCO_val2014_000000391895.jpg", "filepath": "val2014", "cocoid": 391895,
                 "split": "restval", "sentences": [{"raw": "A man with a red helmet ."}]}], "dataset": "coco"}

`restval` belongs to train (113,287 images of COCO together). Only COCO has `filepath`, the folder below `--images`, and
`cocoid`, which `--exclude` may name as `coco:391895`. An image keeps all its captions. Fields as in TFDS's
`coco_captions` and the loaders of several codebases; the files themselves are from Karpathy & Fei-Fei, CVPR 2015.
"""

import argparse
from collections.abc import Iterator
import functools

from harmopower.data.readers import annotation_files, protocol
from harmopower.data.readers.protocol import BadSample

_SPLITS = {"restval": "train"}


class Reader(protocol.Reader):
    """COCO, Flickr30k or Flickr8k by Karpathy's splits, all captions of an image."""

    example = "python -m tools.prepare karpathy --input dataset_coco.json --images coco --output data/coco_karpathy"
    data_set = "karpathy"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        if len(self.inputs) != 1:
            raise protocol.ReaderError(f"--input names {len(self.inputs)} files; one data set has one")
        self._path = self.inputs[0][1]
        self._folder = annotation_files.folder_of(options.images, "--images")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "dataset_coco.json, dataset_flickr30k.json or dataset_flickr8k.json")
        parser.add_argument(
            "--images", required=True, metavar="DIR", help="folder of the images (with COCO, of train2014 and val2014)"
        )

    @functools.cached_property
    def _images(self) -> list:
        return annotation_files.load(self._path, "images")["images"]

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of the list of images; each image says its own split."""
        yield from protocol.units_of_images(self._path, "", map(self._place, self._images))

    def _place(self, image) -> str:
        try:
            return str(protocol.inside(self._folder, _relative(image)))
        except BadSample:
            return ""  # it is reported when the image is read

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The images of a range."""
        first, last = unit.place
        for number, image in enumerate(self._images[first:last], start=first):
            yield protocol.attempt(f"images[{number}]", self._found, image, number)

    def _found(self, image, number: int) -> protocol.Found:
        name = _relative(image)
        captions = _captions(image)
        split = image.get("split", protocol.DEFAULT_SPLIT)
        if not isinstance(split, str) or not protocol.is_split(split):
            raise BadSample("bad_field", f"{name}: split {split!r} is no name of a split")
        example = {"id": image["filename"], "image": protocol.read_image(self._folder, name), "captions": captions}
        aliases = (f"coco:{image['cocoid']}",) if "cocoid" in image else ()
        return protocol.Found(example, _SPLITS.get(split, split), aliases, where=f"images[{number}]")


def _relative(image) -> str:
    """The path below the folder of images."""
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        raise BadSample("missing_key", "the entry has no filename", image if isinstance(image, dict) else ())
    folder = image.get("filepath", "")
    return f"{folder}/{image['filename']}" if folder else image["filename"]


def _captions(image: dict) -> list[str]:
    """The raw sentences without white space around them, of which published captions have some."""
    sentences = image.get("sentences")
    if not isinstance(sentences, list):
        raise BadSample("missing_key", f"{image['filename']} has no list of sentences", image)
    found = [part.get("raw") if isinstance(part, dict) else None for part in sentences]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise BadSample("bad_field", f"{image['filename']}: a sentence has no text `raw`")
    captions = [text.strip() for text in texts if text.strip()]
    if not captions:
        raise BadSample("no_caption", f"{image['filename']} has no caption")
    return captions
