"""Classification sets that TensorFlow Datasets has prepared on this machine; TensorFlow itself is not needed.

    food101/2.0.0/{dataset_info,features}.json  food101-validation.array_record-00000-of-00002 ...

They must be prepared with `--file_format=array_record`, and `classnames.txt` and
`zeroshot_classification_templates.txt` lie in `food101/`, line k for TFDS's label k.
"""

import hashlib
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.proto import tf_example_pb2

from harmopower.data import reading, records
from harmopower.data.records import DataSourceError
from harmopower.evaluation.shards import Sample

_SPLITS = ("test", "validation")
_Stored = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] - made when the module is imported


def is_one(folder: Path) -> bool:
    """Whether a folder, or a version below it, is a prepared data set."""
    return any(folder.glob("dataset_info.json")) or any(folder.glob("*/dataset_info.json"))


class TfdsImages:
    """The split `test`, else `validation`, by random access; picklable."""

    def __init__(self, folder: Path, classes: int):
        """Opens the newest version.

        Raises:
          DataSourceError: it is in another file format, or has no such split, images or labels.
        """
        self._folder = records.find_directory(folder)
        info: Any = read_only_builder.builder_from_directory(self._folder).info  # TFDS types its parts as optional
        kind, splits = info.file_format.value, dict(info.splits.items())
        if kind != "array_record":
            raise DataSourceError(f"{self._folder} holds {kind} files; prepare it with --file_format=array_record")
        split = next((name for name in _SPLITS if name in splits), "")
        if not split or not {"image", "label"} <= set(info.features):
            there = f"splits {', '.join(splits)}; features {', '.join(info.features)}"
            raise DataSourceError(
                f"{self._folder} needs a split {' or '.join(_SPLITS)}, image and label; it has {there}"
            )
        count = info.features["label"].num_classes
        if count != classes:
            raise DataSourceError(f"{self._folder} has {count} labels, but classnames.txt names {classes} classes")
        self._files = reading.RecordFiles(splits[split].file_instructions)
        facts = [(Path(path).name, Path(path).stat().st_size) for path in splits[split].filepaths]
        self.identity = hashlib.sha256(repr((str(self._folder), split, facts)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        stored = _Stored.FromString(self._files[index]).features.feature
        label = str(stored["label"].int64_list.value[0]).encode()
        return Sample(stored["image"].bytes_list.value[0], label, f"{self._folder}, example {index}")
