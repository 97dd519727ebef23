"""Images by class, for evaluation: torchvision's folders, or clip_benchmark's folders of tars.

    root/tabby cat/1.jpg                  a folder a class
    root/val/tabby cat/1.jpg              the same, a folder a split
    root/test/{nshards.txt, 0.tar ...}    clip_benchmark: `cls` is the number of a line of root/classnames.txt

A class becomes the caption, and the label of a region that covers the image, which is what the suite `records` looks
for; the classes stand in the metadata in the order of sorted folders or of the lines. `--class-names FILE` gives
names for people to folders that are called n02123045, a line a folder. Names must differ, or accuracy would mean
nothing. `val` and `valid` become `validation`, the split that is measured. Of clip_benchmark's kinds
(`dataset_type.txt`) `retrieval` is read too, all captions of an image; `multilabel` is not.

Layouts: torchvision `datasets/folder.py`; LAION-AI/CLIP_benchmark `webdataset_builder.py`, `datasets/builder.py`.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import functools
from pathlib import Path

from harmopower.data.readers import annotation_files, protocol, tars
from harmopower.data.readers.protocol import BadSample

_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
_SPLITS = {"val": "validation", "valid": "validation"}
_WHOLE = [0.0, 0.0, 1.0, 1.0]
_KINDS = ("", "retrieval")


@dataclasses.dataclass(frozen=True)
class Root:
    """A folder whose folders are the classes of one split; `number` is that of its input, `name` a prefix of ids."""

    split: str
    path: Path
    number: int
    name: str = ""


class Reader(protocol.Reader):
    """Images by class: a folder a class (torchvision), or clip_benchmark's tars."""

    example = "python -m tools.prepare imagefolder --input imagenet --class-names names.txt --output data/imagenet"

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        for _, path in self.inputs:
            if not path.is_dir():
                raise protocol.ReaderError(f"--input {path} is not a folder")
        in_tars = [any(path.glob("*/nshards.txt")) for _, path in self.inputs]
        if any(in_tars) and len(self.inputs) > 1:
            raise protocol.ReaderError("--input: a folder of clip_benchmark's tars is a data set of its own; give one")
        self._tars = any(in_tars)
        self._kind = _line(self.inputs[0][1] / "dataset_type.txt") if self._tars else ""
        if self._kind not in _KINDS:
            raise protocol.ReaderError(
                f"--input {self.inputs[0][1]}: dataset_type.txt says {self._kind!r}, which is not read; only "
                "classification (no such file) and retrieval are"
            )
        self._check_classes()

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "folders of classes, of splits with classes, or of clip_benchmark's tars")
        parser.add_argument(
            "--class-names",
            default="",
            metavar="FILE",
            help="names of the classes, one a line, in the order of sorted folders or of `cls` "
            "(default: the folders' own, or classnames.txt)",
        )

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of files (`place` ends with the number of the root), or whole tars."""
        if self._tars:
            yield from map(tars.unit, self._shards())
            return
        for number, root in enumerate(self._roots):
            for unit in protocol.units_of_images(root.path, root.split, self._files(number)):
                yield dataclasses.replace(unit, place=(*unit.place, number))

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The images of a unit."""
        if self._tars:
            for sample in tars.samples(unit.path):
                is_sample = isinstance(sample, tars.Sample)
                yield protocol.attempt(sample.key, self._in_tar, sample, unit.split) if is_sample else sample
            return
        first, last, number = unit.place
        for path in self._files(number)[first:last]:
            yield protocol.attempt(self._id(path, number), self._in_folder, path, number)

    def metadata(self, labels: list[str]) -> dict:
        """The classes in their order."""
        return {"classes": [] if self._kind else self._classes}

    @functools.cached_property
    def _roots(self) -> list[Root]:
        return [root for number, (split, path) in enumerate(self.inputs) for root in _roots(split, path, number)]

    @functools.cached_property
    def _folders(self) -> list[str]:
        """The names of the folders of classes, in all splits together."""
        return sorted({folder.name for root in self._roots for folder in _folders(root.path)})

    @functools.cached_property
    def _classes(self) -> list[str]:
        names = Path(self.options.class_names) if self.options.class_names else None
        if self._tars:
            return _lines(names or self.inputs[0][1] / "classnames.txt")
        return _lines(names) if names else self._folders

    def _check_classes(self) -> None:
        if self._kind:
            return
        repeated = sorted({name for name in self._classes if self._classes.count(name) > 1})
        if repeated:
            raise protocol.ReaderError(
                f"several classes are called {repeated[0]!r} ({len(repeated)} names are repeated), so that no answer "
                "could be right; give names that differ by --class-names"
            )
        if not self._tars and len(self._classes) != len(self._folders):
            raise protocol.ReaderError(
                f"--class-names {self.options.class_names} has {len(self._classes)} lines for {len(self._folders)} "
                f"folders of classes, {self._folders[0]} to {self._folders[-1]}"
            )

    @functools.cached_property
    def _files_of_roots(self) -> list[list[Path]]:
        return [[path for folder in _folders(root.path) for path in _images(folder)] for root in self._roots]

    def _files(self, number: int) -> list[Path]:
        return self._files_of_roots[number]

    def _shards(self) -> Iterator[tuple[str, Path]]:
        for count in sorted(self.inputs[0][1].glob("*/nshards.txt")):
            split = _split(count.parent)
            text = _line(count)
            if not text.isdecimal():
                raise protocol.ReaderError(f"{count} says {text!r}; it must hold the number of tars")
            for number in range(int(text)):
                path = count.parent / f"{number}.tar"
                if not path.is_file():
                    raise protocol.ReaderError(f"{path} is missing; {count} says that there are {text} tars")
                yield split, path

    def _id(self, path: Path, number: int) -> str:
        root = self._roots[number]
        prefix = f"{root.number}-" if len(self.inputs) > 1 else ""
        return f"{prefix}{root.name}{path.relative_to(root.path).as_posix()}"

    def _in_folder(self, path: Path, number: int) -> protocol.Found:
        root = self._roots[number]
        folder = path.relative_to(root.path).parts[0]
        image = protocol.read_image(path.parent, path.name)
        name = self._classes[self._numbers[folder]]
        return protocol.Found(_example(self._id(path, number), image, name), root.split)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._folders)}

    def _in_tar(self, sample: tars.Sample, split: str) -> protocol.Found:
        image = sample.image()
        if self._kind:
            # Captions are lines; what was a new line within one is written as a backslash and an n.
            captions = [line.replace("\\n", "\n") for line in sample.text("txt").split("\n") if line.strip()]
            if not captions:
                raise BadSample("no_caption", f"{sample.where} has no caption")
            example = {"id": sample.key, "image": image, "captions": captions}
        else:
            example = _example(sample.key, image, self._named(sample))
        return protocol.Found(example, split, where=sample.where)

    def _named(self, sample: tars.Sample) -> str:
        text = sample.text("cls").strip()
        if not text.isdecimal() or int(text) >= len(self._classes):
            raise BadSample("bad_field", f"{sample.where}.cls is {text!r}; it must be 0 to {len(self._classes) - 1}")
        return self._classes[int(text)]


def _example(name: str, image: bytes, label: str) -> dict:
    region = annotation_files.region(_WHOLE, (0, 0, len(label)), label=label)
    return {"id": name, "image": image, "captions": [label], "regions": [region]}


def _roots(split: str, path: Path, number: int) -> Sequence[Root]:
    """The folder itself, or those of its splits, where images lie one level deeper."""
    folders = _folders(path)
    if any(_has_images(folder) for folder in folders):
        return [Root(_SPLITS.get(split, split), path, number)]
    splits = [folder for folder in folders if any(_has_images(inner) for inner in _folders(folder))]
    if not splits:
        raise protocol.ReaderError(
            f"--input {path}: images lie neither in its folders (classes) nor in theirs (splits with classes); it has: "
            + (", ".join(folder.name for folder in folders[:5]) or "no folder")
        )
    return [Root(_split(folder), folder, number, f"{folder.name}/") for folder in splits]


def _split(folder: Path) -> str:
    if not protocol.is_split(folder.name):
        raise protocol.ReaderError(f"{folder}: {folder.name!r} is no name of a split; letters, digits and _ are")
    return _SPLITS.get(folder.name, folder.name)


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and not path.name.startswith(".")


def _has_images(folder: Path) -> bool:
    return any(map(_is_image, folder.iterdir()))


def _images(folder: Path) -> list[Path]:
    """Also those that lie deeper, which torchvision counts to the class too."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _lines(path: Path) -> list[str]:
    """The names of classes, without white space around them."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise protocol.ReaderError(f"{path} with the names of the classes cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not all(names) or not names:
        empty = names.index("") + 1 if names else 1
        raise protocol.ReaderError(f"{path} line {empty} is empty; each line names a class")
    return names


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
