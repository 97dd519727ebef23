"""Shards of records: ArrayRecord files with one record a group, so that random access is cheap, and their TFDS info."""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import os
from pathlib import Path

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] - a compiled module
from etils import epath
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info as tfds_info
from tensorflow_datasets.core import naming, splits

from harmopower.data import files

SHARD_BYTES = 256 * 2**20  # of a file that any store likes
_OPTIONS = "group_size:1"
_MODULE = "harmopower.data.records"  # what reads them
_READ_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard: `bytes` are those of its records, `sha256` is of the file."""

    file: str
    split: str
    examples: int
    bytes: int
    sha256: str


class Writer:
    """Writes the records of one split of one task, cut into files of about so many bytes, each whole or not at all.

    with Writer(folder, "00003", "train", shard_bytes) as writer:
        writer.add(record)
    writer.shards
    """

    def __init__(self, directory, name: str, split: str, shard_bytes: int):
        self._directory, self._name, self._split, self._shard_bytes = Path(directory), name, split, shard_bytes
        self._open = contextlib.ExitStack()
        self._writer = None
        self.shards: list[Shard] = []

    def add(self, record: bytes) -> None:
        """Adds a serialised example."""
        writer = self._writer or self._start()
        writer.write(record)
        self._examples += 1
        self._bytes += len(record)
        if self._bytes >= self._shard_bytes:
            self.close()

    def _start(self) -> array_record_module.ArrayRecordWriter:
        self._path = self._directory / f"{self._name}-{self._split}-{len(self.shards):03d}.array_record"
        partial = self._open.enter_context(files.whole(self._path))
        self._writer = array_record_module.ArrayRecordWriter(str(partial), _OPTIONS)
        self._examples = self._bytes = 0
        return self._writer

    def close(self) -> None:
        """Ends the file that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._open.close()
            shard = Shard(self._path.name, self._split, self._examples, self._bytes, files.sha256(self._path))
            self.shards.append(shard)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()
            self._open.__exit__(kind, error, trace)  # removes the part


def write(directory: Path, name: str, split: str, records: Iterable[bytes], shard_bytes: int) -> list[Shard]:
    """Writes the records of a split, cut into files of about so many bytes, under their final names."""
    with Writer(directory, name, split, shard_bytes) as writer:
        for record in records:
            writer.add(record)
    for shard, final in zip(writer.shards, final_names(name, split, len(writer.shards)), strict=True):
        os.replace(directory / shard.file, directory / final)
    return writer.shards


@contextlib.contextmanager
def writing(path) -> Iterator[array_record_module.ArrayRecordWriter]:
    """A writer of one file that is there whole or not at all."""
    with files.whole(path) as partial:
        writer = array_record_module.ArrayRecordWriter(str(partial), _OPTIONS)
        try:
            yield writer
        finally:
            writer.close()


def read(path) -> Iterator[bytes]:
    """The records of a shard, in order."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        count = reader.num_records()
        for start in range(0, count, _READ_AT_ONCE):
            yield from reader.read(start, min(start + _READ_AT_ONCE, count))
    finally:
        reader.close()


def final_names(name: str, split: str, count: int) -> list[str]:
    """The names that TFDS expects of the shards of a split."""
    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(), dataset_name=name, split=split, filetype_suffix="array_record"
    )
    return [template.relative_filepath(shard_index=index, num_shards=count) for index in range(count)]


def write_info(
    directory, name: str, shards: Mapping[str, list[Shard]], metadata: Mapping, features: tfds.features.FeaturesDict
) -> None:
    """Makes a TFDS data set of a folder of shards; `dataset_info.json` comes last and whole.

    Args:
      directory: the folder, in which the shards have their final names.
      name: of the data set.
      shards: split -> its shards, in order.
      metadata: JSON-able values to keep with the data, such as the list of classes.
      features: of an example.
    """
    identity = tfds_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=_MODULE
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=features, metadata=tfds.core.MetadataDict(metadata), disable_shuffling=True
    )
    info.set_file_format(file_format="array_record")
    template = naming.ShardedFileTemplate(data_dir=directory, dataset_name=name, filetype_suffix="array_record")
    infos = [
        splits.SplitInfo(split, [shard.examples for shard in parts], sum(s.bytes for s in parts), template)
        for split, parts in shards.items()
    ]
    info.set_splits(splits.SplitDict(infos))
    _write_whole(info, Path(directory))


def _write_whole(info: tfds.core.DatasetInfo, directory: Path) -> None:
    """TFDS writes its files in place: they are made beside and moved, the one that counts last."""
    beside = directory / ".info"
    beside.mkdir(exist_ok=True)
    info.write_to_directory(beside)
    for path in sorted(beside.iterdir(), key=lambda path: (path.name == "dataset_info.json", path.name)):
        with files.whole(directory / path.name) as partial:
            partial.write_bytes(path.read_bytes())
    for path in beside.iterdir():
        path.unlink()
    beside.rmdir()
