"""Regions of images, from a file or a model.

--source file:PATH        boxes by record id, in Parquet, JSON or lines of JSON (`box_files`)
--source sam:MODEL        SAM of transformers, a folder or a name on the hub such as facebook/sam-vit-huge: asked at a
                          grid of points; the boxes of its masks, by stability, quality and overlap
--source sam2:MODEL       SAM 2 in the same way, such as facebook/sam2.1-hiera-large
--source proposals:MODEL  an open-vocabulary detector (grounding-dino, owlv2, a folder or a name on the hub) that looks
                          for the class names of --classes; its regions have labels, so `match` can link them to words

Scores stay with the regions. What SAM costs on millions of images is told in docs/annotations.md.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
import functools
from pathlib import Path
from typing import Any

from harmopower.data import records
from harmopower.data.annotations import box_files, detectors, masks, models, protocol
from harmopower.data.annotations.overlays import AnnotationError
from harmopower.data.readers import boxes as box_formats
from harmopower.data.readers.protocol import BadSample, image_size

SOURCES = ("file", "sam", "sam2", "proposals")
_WITHOUT_SPAN = {"caption": -1, "start": -1, "end": -1}


class Annotator(protocol.Annotator):
    """Regions from a file of boxes, SAM, SAM 2 or a detector of named classes."""

    example = (
        "python -m tools.annotate regions --source sam:facebook/sam-vit-base --data data/photos --name sam --limit 100"
    )
    makes = ("regions",)
    records_per_task = 1_000

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options of this kind."""
        parser.add_argument("--source", required=True, metavar="KIND:WHERE", help=f"one of {', '.join(SOURCES)}")
        box_formats.add_option(parser)
        parser.add_argument("--max-regions", type=int, default=32, help="of an image, the best (default %(default)s)")
        parser.add_argument(
            "--min-area", type=float, default=0.001, help="of a mask or box, a share (default %(default)s)"
        )
        parser.add_argument(
            "--overlap", type=float, default=0.7, help="boxes that overlap more count once (default %(default)s)"
        )
        parser.add_argument(
            "--points", type=int, default=32, help="of SAM's grid in each direction (default %(default)s)"
        )
        parser.add_argument(
            "--min-score", type=float, default=0.88, help="SAM's own score of a mask (default %(default)s)"
        )
        parser.add_argument("--min-stability", type=float, default=0.95, help="of SAM's masks (default %(default)s)")
        parser.add_argument("--classes", default="", metavar="FILE", help="names of proposals, one a line")
        parser.add_argument("--threshold", type=float, default=0.3, help="of a proposal's score (default %(default)s)")
        models.add_options(parser)

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._kind, _, self._where = options.source.partition(":")
        if self._kind not in SOURCES or not self._where:
            raise AnnotationError(
                f"--source is {options.source!r}; it is one of file:PATH, sam:MODEL, sam2:MODEL, proposals:MODEL"
            )

    @functools.cached_property
    def _rows(self) -> dict[str, dict]:
        return _rows_of(self._where)

    @functools.cached_property
    def _names(self) -> list[str]:
        return read_names(self.options.classes)

    def check(self) -> None:
        """Is the file there, or the model and its libraries."""
        models.check_at_least_one(self.options, "max_regions", "points", "batch_size")
        if self._kind == "file":
            _ = self._rows  # reads the file
            return
        models.chosen_device(self.options.device)
        if self._kind == "proposals":
            detectors.kind_of(self._where)
            _ = self._names
            return
        masks.check_kind(self._kind, self._where)

    def inputs(self) -> list[str]:
        """The file of boxes or of names, and those of a model that lies in a folder."""
        if self._kind == "file":
            return [self._where]
        return models.files_of(self._where) + ([self.options.classes] if self._kind == "proposals" else [])

    def annotate(self, part: protocol.Part, examples: Iterable[dict]) -> Iterator[Mapping[str, list[dict]]]:
        """Yields the regions of each example, the best first."""
        del part
        if self._kind == "file":
            yield from ({"regions": self._of_file(example)} for example in examples)
            return
        for batch in models.in_batches(self, examples, self.options.batch_size):
            pictures = [picture for _, picture in batch if picture is not None]
            found = iter(self._ask(pictures) if pictures else ())
            for _, picture in batch:
                regions = next(found) if picture is not None else []
                self.counts["regions"] += len(regions)
                self.counts["images"] += 1
                yield {"regions": regions}

    def _ask(self, pictures: list) -> list[list[dict]]:
        device, options = models.chosen_device(self.options.device), self.options
        if self._kind == "proposals":
            named = [self._names] * len(pictures)
            found = detectors.detector(self._where, device).locate(
                pictures, named, options.threshold, options.max_regions
            )
            rows = [[(one.score, one.box, self._names[one.text]) for one in of] for of in found]
            return [self._best(of) for of in rows]
        filters = masks.Filters(
            options.min_score, options.min_stability, options.min_area, options.overlap, options.max_regions
        )
        found = masks.segmenter(self._kind, self._where, device).boxes(pictures, options.points, filters)
        return [[make_region(box, score) for score, box in of] for of in found]

    def _best(self, found: Iterable[tuple[float, Any, str]]) -> list[dict]:
        rows = [row for row in found if (row[1][2] - row[1][0]) * (row[1][3] - row[1][1]) >= self.options.min_area]
        rows.sort(key=lambda row: -row[0])
        return [make_region(box, score, label) for score, box, label in rows[: self.options.max_regions]]

    def _of_file(self, example: dict) -> list[dict]:
        self.counts["images"] += 1
        row = self._rows.get(example["id"])
        if row is None:
            self.leave_out("not_in_file", example["id"], f"{self._where} has no boxes for it")
            return []
        try:
            size = image_size(example["image"]) if self.options.box_format.endswith("_pixels") else None
            found = [self._row_region(row, index, size) for index in range(len(row["boxes"]))]
        except (BadSample, TypeError, ValueError) as error:
            self.leave_out(getattr(error, "reason", "bad_box"), example["id"], str(error))
            return []
        problems = {
            problem.region: problem for problem in records.examine({**example, "regions": found}) if problem.region >= 0
        }
        for problem in problems.values():
            self.leave_out(problem.code, example["id"], problem.text)
        good = [
            region
            for index, region in enumerate(found)
            if index not in problems and _area(region) >= self.options.min_area
        ]
        good.sort(key=lambda region: -region.get("score", 0.0))
        self.counts["regions"] += len(good[: self.options.max_regions])
        return good[: self.options.max_regions]

    def _row_region(self, row: dict, index: int, size) -> dict:
        box = box_formats.normalise(row["boxes"][index], self.options.box_format, size)
        score, label, text = (row.get(name, {index: None})[index] for name in ("scores", "labels", "texts"))
        return make_region(box, score, label or "", text or "")

    @classmethod
    def summary(cls, counts: Mapping[str, int]) -> list[str]:
        """How many regions an image has."""
        regions, images = counts.get("regions", 0), counts.get("images", 0)
        return [f"{regions} regions, {regions / max(images, 1):.1f} an image"]


def make_region(box, score: float | None = None, label: str = "", text: str = "") -> dict:
    """A region without a span; the score only where there is one."""
    region = {"box": box, **_WITHOUT_SPAN, "text": text, "label": label}
    return region if score is None else region | {"score": float(score)}


def read_names(path: str) -> list[str]:
    """The lines of a file, without those that are empty or were there before.

    Raises:
      AnnotationError: it cannot be read, or is empty.
    """
    if not path:
        raise AnnotationError("--source proposals:MODEL needs --classes, a file of names, one a line")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"--classes {path} cannot be read: {error}") from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise AnnotationError(f"--classes {path} has no names")
    return names


@functools.lru_cache(maxsize=1)
def _rows_of(path: str) -> dict[str, dict]:
    return box_files.read(path)


def _area(region: dict) -> float:
    y0, x0, y1, x1 = map(float, region["box"])
    return (y1 - y0) * (x1 - x0)
