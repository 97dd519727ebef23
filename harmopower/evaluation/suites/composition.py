"""Composition: SugarCrepe, Winoground and ARO, read from their published files.

    ROOT/sugar_crepe/{add_att,add_obj,replace_att,replace_obj,replace_rel,swap_att,swap_obj}.json
    ROOT/sugar_crepe/val2017/*.jpg    (or ROOT/val2017, ROOT/coco/val2017)
    ROOT/winoground/**/*.parquet      (or examples.jsonl and images/)
    ROOT/aro/visual_genome_{relation,attribution}.json    ROOT/aro/images/*.jpg

Everywhere a tie counts as wrong (`strict`), as the authors' programs count it; beside SugarCrepe's and ARO's stands
`half`, where it counts one half. clip_benchmark gives ties to the right caption.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harmopower.data.records import DataSourceError
from harmopower.errors import RecordError
from harmopower.evaluation import aro, sets
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suite import NO_BOXES, Found, Prepared, Suite, Task, Vectors, View

# Pairs of each part: RAIVNLab/sugar-crepe `data/`, counted.
PARTS = {
    "add_att": 692,
    "add_obj": 2_062,
    "replace_att": 788,
    "replace_obj": 1_652,
    "replace_rel": 1_406,
    "swap_att": 666,
    "swap_obj": 245,
}
_SUGAR = Published(
    "sugar_crepe",
    "",
    sum(PARTS.values()),
    get="the seven JSON files of github.com/RAIVNLab/sugar-crepe `data/` and COCO's val2017 folder",
)
_WINOGROUND = Published(
    "winoground",
    "",
    400,
    get="the Parquet files of the Hugging Face hub's facebook/winoground (accept its terms there)",
)
_ARO = Published(
    "aro",
    "",
    get="visual_genome_relation.json, visual_genome_attribution.json and images/ of "
    "github.com/mertyg/vision-language-models-are-bows",
)
_BLIND = 1e-6  # similarities closer than this are one and the same up to rounding


class Pair(NamedTuple):
    """A caption and the one that is wrong."""

    part: str
    caption: str
    negative: str


class Case(NamedTuple):
    """An image with what is asked of it."""

    image: bytes
    facts: Any
    where: str
    cut: tuple[float, ...] | None = None


class _Files:
    """Images in files, by random access, each with its facts; picklable."""

    def __init__(self, rows: list[tuple[str, Any, tuple[float, ...] | None]]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Case:
        path, facts, cut = self._rows[index]
        try:
            return Case(Path(path).read_bytes(), facts, path, cut)
        except OSError as error:
            return Case(b"", facts, f"{path} cannot be read: {error.strerror}", cut)

    @property
    def identity(self) -> str:
        return hashlib.sha256(repr(self._rows).encode()).hexdigest()


class _Selection(Task):
    """What the three have in common: an image, and facts that `measure` compares."""

    @property
    def identity(self) -> str:
        return self.source.identity

    def prepare(self, example: Case, view: View) -> Prepared:
        """Decodes the image, cut out first where the set says so."""
        try:
            return Prepared(view.take(example.image, cut=example.cut)[0], NO_BOXES, example.facts)
        except RecordError as error:
            raise RecordError(f"{example.where}: {error}") from error


def _margins(vectors: Vectors) -> tuple[list[Pair], np.ndarray]:
    """All pairs, and by how much the image is more similar to the right caption."""
    rows, pairs = zip(*((row, pair) for row, own in enumerate(vectors.facts) for pair in own), strict=True)
    images = vectors.images[list(rows)]
    right = vectors.texts([pair.caption for pair in pairs])
    wrong = vectors.texts([pair.negative for pair in pairs])
    return list(pairs), (images * right).sum(-1) - (images * wrong).sum(-1)


def _share(margins: np.ndarray) -> tuple[float, float]:
    """Shares of the right ones, strict and half."""
    strict = (margins > 0).mean()
    return float(strict), float(strict + (margins == 0).mean() / 2)


class SugarCrepe(_Selection):
    """Seven parts: micro is the paper's figure (over all pairs), macro the mean of the parts."""

    metrics = [f"{part}{rule}" for part in (*PARTS, "micro", "macro") for rule in ("", "_half")]

    def __init__(self, folder: Path, published: Published):
        """Reads the parts that are there.

        Raises:
          DataSourceError: there is none, one cannot be read, or there are no images.
        """
        self._expected = published.size
        images = sets.images_of(folder, "val2017")
        there = [part for part in PARTS if (folder / f"{part}.json").is_file()]
        if not there:
            raise DataSourceError(f"{folder} has none of {', '.join(f'{part}.json' for part in PARTS)}")
        self._missing = [part for part in PARTS if part not in there]
        pairs: dict[str, list[Pair]] = {}
        for part in there:
            rows = _json(folder / f"{part}.json", dict, ("filename", "caption", "negative_caption"))
            for row in rows:
                pair = Pair(part, row["caption"].strip(), row["negative_caption"].strip())
                pairs.setdefault(row["filename"], []).append(pair)
        self.source = _Files([(str(images / name), own, None) for name, own in sorted(pairs.items())])

    def measure(self, vectors: Vectors) -> Found:
        """Both rules for each part, and what a model that is blind to the order of words can reach."""
        pairs, margins = _margins(vectors)
        names, found = np.array([pair.part for pair in pairs]), Found()
        for part in dict.fromkeys(part for part in PARTS if part in names):
            found.metrics[part], found.metrics[f"{part}_half"] = _share(margins[names == part])
        parts = [found.metrics[part] for part in PARTS if part in found.metrics]
        halves = [found.metrics[f"{part}_half"] for part in PARTS if part in found.metrics]
        found.metrics["micro"], found.metrics["micro_half"] = _share(margins)
        found.metrics["macro"], found.metrics["macro_half"] = float(np.mean(parts)), float(np.mean(halves))
        found.chance = dict.fromkeys(found.metrics, 0.5)
        found.notes["pairs"] = f"{len(pairs)} pairs; micro is the paper's figure; a tie is wrong, in *_half one half"
        if len(pairs) != self._expected:
            missing = f"; not there: {', '.join(self._missing)}" if self._missing else ""
            found.partial["pairs"] = f"{len(pairs)} pairs, published are {self._expected}{missing}"
        _add_ceiling(found, pairs, vectors)
        return found


def _add_ceiling(found: Found, pairs: list[Pair], vectors: Vectors) -> None:
    """Says the ceiling of a text tower that gives the two captions of a pair of equal words one and the same vector."""
    same = [pair for pair in pairs if bag(pair.caption) == bag(pair.negative)]
    if not same:
        return
    right, wrong = vectors.texts([pair.caption for pair in same]), vectors.texts([pair.negative for pair in same])
    if np.abs(right - wrong).max() > _BLIND:
        return
    strict, half = 1 - len(same) / len(pairs), 1 - len(same) / len(pairs) / 2
    found.notes["order"] = (
        f"the text tower is blind to the order of words: {len(same)} pairs are of the same words, so it can reach "
        f"{100 * strict:.1f} % (half: {100 * half:.1f} %)"
    )


def bag(caption: str) -> list[str]:
    """The words of a caption, in no order; case and what is no letter or digit do not count."""
    return sorted("".join(letter if letter.isalnum() else " " for letter in caption.lower()).split())


class Winoground(_Selection):
    """Two images and two captions of the same words: text, image and group score (Thrush et al. 2022)."""

    metrics = ("text", "image", "group")

    def __init__(self, folder: Path, published: Published):
        """Opens the Parquet files, or `examples.jsonl`.

        Raises:
          DataSourceError: neither is there, or a file cannot be read.
        """
        self._expected = published.size
        parquet = sorted(folder.rglob("*.parquet"))
        self.source = _ParquetPairs(parquet) if parquet else _Files(_winoground_rows(folder))

    def measure(self, vectors: Vectors) -> Found:
        """An example counts where both its images could be read."""
        rows = {(example, which): row for row, (example, which, _) in enumerate(vectors.facts)}
        both = [example for example, which in rows if which == 0 and (example, 1) in rows]
        if not both:
            return Found(left_out={"examples": "no example has two images that can be read"})
        captions = [vectors.facts[rows[example, 0]][2] for example in both]
        images = [vectors.images[[rows[example, which] for example in both]] for which in (0, 1)]
        texts = [vectors.texts([own[which] for own in captions]) for which in (0, 1)]
        score = {(c, i): (texts[c] * images[i]).sum(-1) for c in (0, 1) for i in (0, 1)}
        text = (score[0, 0] > score[1, 0]) & (score[1, 1] > score[0, 1])
        image = (score[0, 0] > score[0, 1]) & (score[1, 1] > score[1, 0])
        shares = {"text": text.mean(), "image": image.mean(), "group": (text & image).mean()}
        found = Found({name: float(share) for name, share in shares.items()})
        found.chance = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}  # the authors', table 2
        found.notes["examples"] = f"{len(both)} examples; a tie is wrong"
        if len(both) != self._expected:
            found.partial["examples"] = f"{len(both)} examples, published are {self._expected}"
        return found


class _ParquetPairs:
    """The images of Winoground's Parquet files, two an example, by random access; picklable."""

    def __init__(self, paths: list[Path]):
        import pyarrow.parquet  # takes long to import, and only this needs it

        self._groups = []  # file, row group, first example
        self._count = 0
        for path in paths:
            try:
                facts = pyarrow.parquet.ParquetFile(path).metadata
            except (OSError, pyarrow.ArrowException) as error:
                raise DataSourceError(f"{path} cannot be read: {error}") from error
            for group in range(facts.num_row_groups):
                self._groups.append((str(path), group, self._count))
                self._count += facts.row_group(group).num_rows
        self._open: tuple[int, list] = (-1, [])

    def __len__(self) -> int:
        return 2 * self._count

    def __getitem__(self, index: int) -> Case:
        example, which = divmod(index, 2)
        place = max(place for place, (_, _, first) in enumerate(self._groups) if first <= example)
        open_place, rows = self._open
        if open_place != place:  # one group is kept: examples are read in order
            import pyarrow.parquet

            path, group, _ = self._groups[place]
            columns = ["image_0", "image_1", "caption_0", "caption_1"]
            rows = pyarrow.parquet.ParquetFile(path).read_row_group(group, columns).to_pylist()
            self._open = place, rows
        row = rows[example - self._groups[place][2]]
        facts = (example, which, (row["caption_0"], row["caption_1"]))
        return Case(row[f"image_{which}"]["bytes"], facts, f"{self._groups[place][0]}, example {example}")

    def __getstate__(self):
        return self.__dict__ | {"_open": (-1, [])}

    @property
    def identity(self) -> str:
        facts = [(group, Path(group[0]).stat().st_size) for group in self._groups]
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def _winoground_rows(folder: Path) -> list:
    """The rows of the older layout: `examples.jsonl` and `images/ex_0_img_0.png`."""
    found = next(
        (path for path in (folder / "examples.jsonl", folder / "data" / "examples.jsonl") if path.exists()), None
    )
    if found is None:
        raise DataSourceError(f"{folder} has neither *.parquet nor examples.jsonl; get {_WINOGROUND.get}")
    rows = []
    for number, line in enumerate(found.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
            captions = row["caption_0"], row["caption_1"]
            names = [row["image_0"], row["image_1"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataSourceError(f"{found}, line {number + 1}: {error!r}") from error
        for which, name in enumerate(names):
            path = found.parent / "images" / name
            rows.append((str(path if path.suffix else path.with_suffix(".png")), (number, which, captions), None))
    return rows


class Aro(_Selection):
    """ARO's relation and attribution: the region is cut out first, the figure is the mean over relations."""

    metrics = ("macro", "macro_half", "micro", "micro_half")

    def __init__(self, folder: Path, kind: str):
        """Reads `visual_genome_KIND.json`.

        Raises:
          DataSourceError: the file or the images are missing or wrong.
        """
        self._kind = kind
        name = "relation_name" if kind == "relation" else "attributes"
        fields = ("image_path", "bbox_x", "bbox_y", "bbox_w", "bbox_h", name, "true_caption", "false_caption")
        rows = []
        for row in _json(folder / f"visual_genome_{kind}.json", list, fields):
            x, y, width, height = (row[f"bbox_{side}"] for side in "xywh")
            part = row[name] if kind == "relation" else "_".join(row[name])
            pair = Pair(part, row["true_caption"], row["false_caption"])
            rows.append((str(folder / "images" / row["image_path"]), [pair], (x, y, x + width, y + height)))
        self.source = _Files(rows)

    def measure(self, vectors: Vectors) -> Found:
        """Relations without the symmetric ones; attributes with 25 cases or more."""
        pairs, margins = _margins(vectors)
        names = np.array([pair.part for pair in pairs])
        kept, counts = np.unique(names, return_counts=True)
        if self._kind == "relation":
            kept = [name for name in kept if name not in aro.SYMMETRIC]
        else:
            kept = kept[counts >= aro.FEWEST]
        if not len(kept):
            return Found(left_out={"macro": f"none of the {len(set(names))} kinds of {self._kind} counts"})
        shares = np.array([_share(margins[names == name]) for name in kept]).mean(0)
        chosen = _share(margins[np.isin(names, kept)])
        found = Found(dict(zip(self.metrics, map(float, (*shares, *chosen)), strict=True)))
        found.chance = dict.fromkeys(self.metrics, 0.5)
        found.notes["cases"] = f"{len(pairs)} cases, the mean of {len(kept)} of {len(set(names))} kinds of {self._kind}"
        return found


def _json(path: Path, kind: type, fields) -> list[dict]:
    """The rows of a file of annotations.

    Raises:
      DataSourceError: it cannot be read, or a row lacks a field.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataSourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, kind):
        raise DataSourceError(f"{path} holds {type(found).__name__}, not {kind.__name__}")
    rows = list(found.values()) if kind is dict else found
    for number, row in enumerate(rows):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise DataSourceError(f"{path}: row {number} has no {', '.join(missing)}")
    return rows


class CompositionSuite(Suite):
    """The three benchmarks."""

    name = "composition"

    def tasks(self, config) -> dict[str, Task | str]:
        root = config.evaluation.data
        kinds = ("relation", "attribution")
        found = {
            f"aro_{kind}": sets.opened(root, _ARO, lambda folder, _, kind=kind: Aro(folder, kind)) for kind in kinds
        }
        return {
            "sugar_crepe": sets.opened(root, _SUGAR, SugarCrepe),
            "winoground": sets.opened(root, _WINOGROUND, Winoground),
            **found,
        }


SUITE = CompositionSuite()
