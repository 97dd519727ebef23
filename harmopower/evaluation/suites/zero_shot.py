"""Zero-shot classification on the sets of clip_benchmark and DataComp, read from local folders.

A set is in clip_benchmark's WebDataset layout (`evaluation/shards.py`), or prepared by TensorFlow Datasets
(`evaluation/tfds_sets.py`), or a folder of images, one sub-folder a class in alphabetical order (as torchvision's
ImageFolder). Class names and prompts are those of the set's own `classnames.txt` and
`zeroshot_classification_templates.txt`, so ImageNet-A, -R and -O have their 200 classes.
"""

import hashlib
import io
from pathlib import Path
from typing import Self

import numpy as np

from harmopower.data.records import DataSourceError
from harmopower.errors import RecordError
from harmopower.evaluation import averages, classification, sets, shards, tfds_sets
from harmopower.evaluation.sets import Published
from harmopower.evaluation.suite import NO_BOXES, Found, Prepared, Some, Suite, Task, Vectors, View

MAP = "mean_average_precision"
_MEAN = "mean_per_class_recall"
_LIGHT_TEMPLATES = 8  # of ImageNet's 80, whose 80,000 texts would cost thrice what the 5,000 images do
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")  # in any case

# Names as in LAION-AI/CLIP_benchmark `benchmark/webdatasets.txt`; sizes and main figures as in mlfoundations/datacomp
# `tasklist.yml`, whose splits are those of the published averages. VOC 2007 are crops of its boxes, or all labels.
SETS = (
    Published("imagenet1k", "imagenet1k", 50_000),
    Published("imagenetv2", "imagenetv2", 10_000),
    Published("imagenet-a", "imagenet-a", 7_500),
    Published("imagenet-r", "imagenet-r", 30_000),
    Published("imagenet-o", "imagenet-o", 2_000),
    Published("imagenet_sketch", "imagenet_sketch", 50_889),
    Published("objectnet", "objectnet", 18_574),
    Published("food101", "food101", 25_250),
    Published("cifar10", "vtab/cifar10", 10_000, others=("wds_cifar10", "wds_cifar10_test")),
    Published("cifar100", "vtab/cifar100", 10_000),
    Published("sun397", "sun397", 108_754),
    Published("cars", "cars", 8_041),
    Published("voc2007", "voc2007", 14_976),
    Published("voc2007_multilabel", "voc2007_multilabel", main=MAP),
    Published("fgvc_aircraft", "fgvc_aircraft", 3_333, _MEAN),
    Published("dtd", "vtab/dtd", 1_880),
    Published("pets", "vtab/pets", 3_669, _MEAN),
    Published("caltech101", "vtab/caltech101", 6_085, _MEAN),
    Published("flowers", "vtab/flowers", 6_149, _MEAN),
    Published("stl10", "stl10", 8_000),
    Published("eurosat", "vtab/eurosat", 5_400),
    Published("resisc45", "vtab/resisc45", 6_300),
    Published("gtsrb", "gtsrb", 12_630),
    Published("country211", "country211", 21_100),
    Published("pcam", "vtab/pcam", 32_768),
    Published("mnist", "mnist", 10_000),
    Published("svhn", "vtab/svhn", 26_032),
    Published("renderedsst2", "renderedsst2", 1_821),
    Published("fer2013", "fer2013"),
    Published("clevr_count_all", "vtab/clevr_count_all", 15_000),
    Published("clevr_closest_object_distance", "vtab/clevr_closest_object_distance", 15_000),
    Published("kitti_closest_vehicle_distance", "vtab/kitti_closest_vehicle_distance", 711),
    Published("diabetic_retinopathy", "vtab/diabetic_retinopathy"),
    Published("dmlab", "vtab/dmlab"),
    Published("dsprites_label_orientation", "vtab/dsprites_label_orientation"),
    Published("dsprites_label_x_position", "vtab/dsprites_label_x_position"),
    Published("dsprites_label_y_position", "vtab/dsprites_label_y_position"),
    Published("smallnorb_label_azimuth", "vtab/smallnorb_label_azimuth"),
    Published("smallnorb_label_elevation", "vtab/smallnorb_label_elevation"),
)


class ZeroShot(Task):
    """One set."""

    def __init__(self, folder: Path, published: Published):
        """Reads the names and prompts and looks where the images are.

        Raises:
          DataSourceError: a file is missing or cannot be used; the text names it.
        """
        self._published = published
        self.classes, self.templates = lines(folder, "classnames.txt"), templates(folder)
        kind = folder / "dataset_type.txt"
        self._many = kind.is_file() and kind.read_text(encoding="utf-8").strip().lower() == "multilabel"
        if any((folder / "test").glob("*.tar")) or (folder / "test" / "nshards.txt").exists():
            self.source = shards.Shards(folder, "npy" if self._many else "cls")
        elif tfds_sets.is_one(folder):
            self.source = tfds_sets.TfdsImages(folder, len(self.classes))
        else:
            self.source = Pictures(folder, len(self.classes))
        self._chance = {} if self._many else classification.recall_chance(len(self.classes))
        self.metrics = [MAP] if self._many else [*self._chance]

    @property
    def identity(self) -> str:
        text = repr((self.classes, self.templates, self.source.identity, self._many, self._published))
        return hashlib.sha256(text.encode()).hexdigest()

    def lighter(self) -> Self:
        """Fewer prompts; and of a folder, whose order is that of the classes, every so many-th image."""
        found, count = super().lighter(), len(self.source)
        found.templates = self.templates[:_LIGHT_TEMPLATES]
        if isinstance(self.source, Pictures):
            found.source = Some(self.source, range(0, count, max(1, -(-count // self.light))))
        return found

    def prepare(self, example, view: View) -> Prepared:
        """Decodes the image and reads its label."""
        try:
            image, _, _ = view.take(example.image)
            return Prepared(image, NO_BOXES, self._label(example.label))
        except (RecordError, ValueError, OSError) as error:
            raise RecordError(f"{example.where}: {error}") from error

    def _label(self, data: bytes):
        if self._many:
            return np.load(io.BytesIO(data), allow_pickle=False).astype(bool)
        label = int(data)
        if not 0 <= label < len(self.classes):
            raise RecordError(f"label {label} is none of the {len(self.classes)} classes of classnames.txt")
        return label

    def measure(self, vectors: Vectors) -> Found:
        """The figures of clip_benchmark."""
        prompts = [[template.format(c=name) for template in self.templates] for name in self.classes]
        classes, labels = vectors.classes(prompts), np.array(vectors.facts)
        if self._many:
            found = Found({MAP: classification.mean_average_precision(vectors.images @ classes.T, labels)})
            found.chance[MAP] = float(labels.mean(0).mean())
        else:
            found = Found(classification.recalls(vectors.images, classes, labels), dict(self._chance))
        size, count = self._published.size, len(vectors.facts)
        found.notes["images"] = f"{count} images, {len(classes)} classes; published figure: {self._published.main}"
        if size and count != size:
            found.partial["images"] = f"{count} images, the published set has {size}"
        return found


class Pictures:
    """A folder of images, one sub-folder a class in alphabetical order, perhaps below `test` or `val`; picklable."""

    def __init__(self, folder: Path, classes: int):
        """Lists the files.

        Raises:
          DataSourceError: there are not as many sub-folders as classes.
        """
        below = [folder / name for name in ("test", "val", "validation") if (folder / name).is_dir()]
        folder = below[0] if below else folder
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        if len(folders) != classes:
            raise DataSourceError(
                f"{folder} has {len(folders)} sub-folders, but classnames.txt names {classes} classes"
            )
        self._files = [
            (str(path), str(label).encode())
            for label, folder in enumerate(folders)
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in _PICTURES
        ]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> shards.Sample:
        path, label = self._files[index]
        with open(path, "rb") as file:
            return shards.Sample(file.read(), label, path)

    @property
    def identity(self) -> str:
        """Of the names and sizes of all files."""
        facts = [(path, label, Path(path).stat().st_size) for path, label in self._files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def lines(folder: Path, name: str) -> list[str]:
    """The lines of a file of a set.

    Raises:
      DataSourceError: it is missing or empty.
    """
    try:
        found = [line.strip() for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataSourceError(f"{folder / name} cannot be read ({error}); it comes with the set") from error
    if not found:
        raise DataSourceError(f"{folder / name} is empty")
    return found


def templates(folder: Path) -> list[str]:
    """The prompts of a set, such as `a photo of a {c}.`.

    Raises:
      DataSourceError: they are missing, or one has not just the place {c}.
    """
    name = "zeroshot_classification_templates.txt"
    found = lines(folder, name)
    for template in found:
        try:
            template.format(c="")
        except (KeyError, IndexError, ValueError) as error:
            raise DataSourceError(f"{folder / name}: {template!r} has another place than {{c}}") from error
    return found


class ZeroShotSuite(Suite):
    """All sets; the two averages of the papers."""

    name = "zero_shot"
    averages = tuple(averages.name(each) for each in (averages.ZERO_SHOT, averages.IMAGENET))

    def tasks(self, config) -> dict[str, Task | str]:
        """One task a set; sets of `sets.json` that are not listed here are measured too."""
        root = config.evaluation.data
        listed = {published.name: published for published in SETS}
        listed |= {
            name: Published(name, name) for name in sets.mapping(root) if name not in sets.RESERVED | set(listed)
        }
        return {name: sets.opened(root, published, ZeroShot) for name, published in listed.items()}

    def average(self, found: Found) -> Found:
        return averages.both(found, averages.ZERO_SHOT, averages.IMAGENET)


SUITE = ZeroShotSuite()
