"""Visual Genome: an image's region descriptions, some fifty short texts with boxes.

`--input region_descriptions.json` and `--image-data image_data.json`, as published:

    [{"id": 1, "regions": [{"region_id": 1382, "image_id": 1, "phrase": "the clock is green in colour",
                            "x": 421, "y": 57, "width": 82, "height": 139}]}]
    [{"image_id": 1, "url": "https://.../VG_100K_2/1.jpg", "width": 800, "height": 600, "coco_id": null}]

Older files say `id` where newer ones say `image_id`; both are read. An image lies in VG_100K or VG_100K_2 below
`--images`, as its `url` says. Visual Genome has no captions: one is made of the phrases, the largest box first, joined
by ". " up to `--caption-length` characters, which is how MDETR makes texts of them; a phrase that is in it is named by
its span there, and each region keeps its phrase as its own text. Boxes beyond the image are clipped. About half of the
images are COCO's (51,498): `coco_id`, where it is neither null nor -1, is what `--guard` and `--exclude` go by.
Source: ranjaykrishna/visual_genome_python_driver, visual_genome/utils.py and its open issues on `coco_id`.
"""

import argparse
from collections.abc import Iterator
import functools
from pathlib import Path

from harmopower.data.readers import annotation_files, boxes, protocol
from harmopower.data.readers.protocol import BadSample

_JOINT = ". "


class Reader(protocol.Reader):
    """Visual Genome's region descriptions: boxes with texts of their own."""

    example = (
        "python -m tools.prepare visual_genome --input region_descriptions.json --image-data image_data.json "
        "--images visual_genome --guard coco=instances_val2017.json --output data/visual_genome"
    )
    data_set = "visual_genome"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        if len(self.inputs) != 1:
            raise protocol.ReaderError(f"--input names {len(self.inputs)} files; region_descriptions.json is one")
        if options.caption_length < 1:
            raise protocol.ReaderError(f"--caption-length is {options.caption_length}; it must be at least 1")
        self._split, self._path = self.inputs[0]
        self._folder = annotation_files.folder_of(options.images, "--images")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "region_descriptions.json")
        parser.add_argument("--image-data", required=True, metavar="FILE", help="image_data.json")
        parser.add_argument(
            "--images", required=True, metavar="DIR", help="folder that has VG_100K and VG_100K_2 in it"
        )
        parser.add_argument(
            "--caption-length",
            type=int,
            default=200,
            metavar="N",
            help="characters of the caption that is made of the phrases (default %(default)s)",
        )

    @functools.cached_property
    def _described(self) -> list:
        return annotation_files.load_list(self._path)

    @functools.cached_property
    def _facts(self) -> dict:
        """What image_data.json says, by image id."""
        found = annotation_files.load_list(Path(self.options.image_data))
        return {_identity(facts): facts for facts in found if isinstance(facts, dict)}

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of the described images."""
        yield from annotation_files.units(self._path, self._split, map(self._place, self._described))

    def _place(self, image) -> str:
        try:
            return str(protocol.inside(self._folder, self._relative(image)))
        except BadSample:
            return ""  # it is reported when the image is read

    def _relative(self, image) -> str:
        """The path below the folder: the last two parts of the image's address."""
        number = _identity(image) if isinstance(image, dict) else None
        if number is None:
            raise BadSample("missing_key", "no id and no image_id", image if isinstance(image, dict) else ())
        url = self._facts.get(number, {}).get("url")
        if not isinstance(url, str):
            raise BadSample("missing_key", f"image {number} has no url in {self.options.image_data}")
        return "/".join(url.split("/")[-2:])

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The images of a range."""
        first, last, _ = unit.place
        for place, image in enumerate(self._described[first:last], start=first):
            yield protocol.attempt(f"images[{place}]", self._found, image)

    def _found(self, image) -> protocol.Found:
        name = self._relative(image)
        number = _identity(image)
        data = protocol.read_image(self._folder, name)
        regions, notes = _regions(image.get("regions") or [], protocol.image_size(data))
        if not regions:
            raise BadSample("no_caption", f"image {number} has no region that can be used, and so no text")
        caption = _caption(regions, self.options.caption_length)
        example = {"id": str(number), "image": data, "captions": [caption], "regions": regions}
        coco = self._facts[number].get("coco_id")
        aliases = (f"coco:{coco}",) if isinstance(coco, int) and coco >= 0 else ()
        return protocol.Found(example, self._split, aliases, where=name, notes=tuple(notes))


def _identity(entry: dict):
    return entry.get("image_id", entry.get("id"))


def _regions(described: list, size: tuple[int, int]) -> tuple[list[dict], list[tuple[str, str]]]:
    """The regions with their texts, the largest first, and notes of those that were dropped."""
    found, notes = [], []
    for part in described:
        try:
            sides = [float(part[name]) for name in ("x", "y", "width", "height")]
            box = annotation_files.clip(boxes.normalise(sides, "xywh_pixels", size))
            text = part["phrase"].strip()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            notes.append(("bad_box", f"a region without x, y, width, height and phrase: {error!r}"))
            continue
        if not (box[0] < box[2] and box[1] < box[3]):
            notes.append(("empty_box", f"{sides} has no area in an image of {size[0]} x {size[1]}"))
        elif not text:
            notes.append(("empty_text", f"the region {sides} has no phrase"))
        else:
            found.append(annotation_files.region(box, text=text))
    return sorted(found, key=lambda part: -_area(part["box"])), notes


def _area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _caption(regions: list[dict], length: int) -> str:
    """Joins different phrases while they fit, the first one in any case, and tells the regions where theirs is."""
    caption, places = "", {}
    for region in regions:
        text = region["text"]
        if text not in places:
            start = len(caption) + len(_JOINT) if caption else 0
            if caption and start + len(text) > length:
                continue
            caption = caption + _JOINT + text if caption else text
            places[text] = (start, start + len(text))
        region["caption"], (region["start"], region["end"]) = 0, places[text]
    return caption
