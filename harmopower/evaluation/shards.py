"""Sets in clip_benchmark's WebDataset layout, by random access: the tars are listed once and read by offset.

    food101/classnames.txt  zeroshot_classification_templates.txt  dataset_type.txt  test/nshards.txt  test/0.tar ...

`nshards.txt` says how many tars there are; `dataset_type.txt` is `retrieval` or `multilabel`, and absent where every
image has one label. Members of a sample are `KEY.webp|png|jpg` and `KEY.cls`, `KEY.npy` or `KEY.txt` (LAION-AI/
CLIP_benchmark `webdataset_builder.py` and `datasets/builder.py`).
"""

from collections.abc import Iterator
import functools
import hashlib
from pathlib import Path
import tarfile
from typing import NamedTuple

import numpy as np

from harmopower.data.records import DataSourceError

IMAGES = ("webp", "png", "jpg", "jpeg")


class Sample(NamedTuple):
    """A sample as it is stored."""

    image: bytes
    label: bytes
    where: str  # for messages


class Shards:
    """The samples of a set in the order of its tars; picklable.

    Memory is 40 bytes a sample, and no file stays open.
    """

    def __init__(self, folder, label: str, split: str = "test"):
        """Looks which tars there are and opens none.

        Args:
          folder: the set.
          label: the ending of the member beside the image, `cls`, `npy` or `txt`.

        Raises:
          DataSourceError: tars are missing.
        """
        self.tars, self._label = tars(folder, split), label

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        tar, image, image_size, label, label_size = map(int, self._places[index])
        with open(self.tars[tar], "rb") as file:
            image_bytes, label_bytes = _read(file, image, image_size), _read(file, label, label_size)
        return Sample(image_bytes, label_bytes, f"{self.tars[tar]}, the image at byte {image}")

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """[n, 5]: which tar, and where in it image and label begin and how long they are."""
        found = [place for number, tar in enumerate(self.tars) for place in _list(number, tar, self._label)]
        return np.array(found, np.int64).reshape(-1, 5)

    @property
    def identity(self) -> str:
        """Equal as long as nobody touches the tars."""
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.tars]
        return hashlib.sha256(repr((facts, self._label)).encode()).hexdigest()[:16]


def tars(folder, split: str) -> list[Path]:
    """The tars of a split, as many as its `nshards.txt` says.

    Raises:
      DataSourceError: that file or one of the tars is missing.
    """
    path = Path(folder) / split / "nshards.txt"
    try:
        found = [path.parent / f"{number}.tar" for number in range(int(path.read_text(encoding="utf-8")))]
    except (OSError, ValueError) as error:
        raise DataSourceError(f"{path} does not say how many tars there are: {error}") from error
    missing = [tar.name for tar in found if not tar.is_file()]
    if missing:
        raise DataSourceError(f"{path} says {len(found)}, but {', '.join(missing[:5])} are not there")
    return found


def _list(number: int, path: Path, label: str) -> Iterator[tuple[int, int, int, int, int]]:
    """The places of the samples of one tar; a sample is consecutive members of one key.

    Raises:
      DataSourceError: the tar is damaged, or a sample lacks its image or label.
    """
    key, members = None, {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if (folder, stem) != key and members:
                    yield (number, *_sample(members, label, path, key))
                    members = {}
                key = folder, stem
                members[ending.lower()] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataSourceError(f"{path} cannot be read: {error}; get it again") from error
    if members:
        yield (number, *_sample(members, label, path, key))


def _sample(members: dict, label: str, path: Path, key) -> tuple[int, int, int, int]:
    image = next((members[ending] for ending in IMAGES if ending in members), None)
    if image is None or label not in members:
        raise DataSourceError(
            f"{path}: sample {key[1]} has the members {', '.join(sorted(members))}; it needs an image "
            f"({', '.join(IMAGES)}) and .{label}"
        )
    return (*image, *members[label])


def _read(file, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
