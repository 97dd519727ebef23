"""What one example is: TFDS features, writing and reading without TensorFlow, and checking.

An example is a plain dict, the same for builders, writers and readers:

    {"id": "000017",
     "image": b"...",                                    # encoded JPEG or PNG, never decoded here
     "captions": ["a red circle above a blue square"],
     "phrases": [{"caption": 0, "start": 0, "end": 12, "label": "NP"}],       # characters of that caption
     "regions": [{"box": [y0, x0, y1, x1],               # normalised to 0..1
                  "caption": 0, "start": 0, "end": 12,   # the span that names it; -1, -1, -1 for none
                  "text": "", "label": "red circle"}],   # its own text and class; "" for none
     "negatives": [{"caption": 0, "kind": "swap_attribute", "text": "a blue circle above a red square"}]}

Spans are characters, not token ids, so that another tokenizer needs no new annotation (DESIGN section 2).
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import math
from pathlib import Path
import pickle

import numpy as np
import tenacity
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.proto import tf_example_pb2

from harmopower.data import images, reading, shards
from harmopower.errors import RecordError, UserError

Example = dict

_SAMPLED = 128
_LISTS = {
    "phrases": ("caption", "start", "end", "label"),
    "regions": ("box", "caption", "start", "end", "text", "label"),
    "negatives": ("caption", "kind", "text"),
}
_TEXTS = ("label", "text", "kind")
# What array_record lets out for a disk that fails and for bytes that are damaged: its C++ errors are RuntimeErrors.
_READ_ERRORS = (OSError, RuntimeError)
_Stored = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] - made when the module is imported
_TRIES, _FIRST_WAIT = 3, 0.5  # more tries, and the seconds before the second of them, then doubled


class DataSourceError(UserError, ValueError):
    """A data set or a split that is not there; the text says what to run or which splits there are."""


def features() -> tfds.features.FeaturesDict:
    """The TFDS features of an example. A box is a plain tensor, so that a wrong one can be stored and named."""
    kinds = {"box": tfds.features.Tensor(shape=(4,), dtype=np.float32)}
    kinds |= {name: tfds.features.Text() for name in _TEXTS}
    kinds |= {name: tfds.features.Scalar(dtype=np.int32) for name in ("caption", "start", "end")}
    lists = {name: tfds.features.Sequence({field: kinds[field] for field in fields}) for name, fields in _LISTS.items()}
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            **lists,
        }
    )


def write(
    directory,
    splits: Mapping[str, Iterable[Example]],
    *,
    name: str,
    metadata: Mapping | None = None,
    shard_bytes: int = shards.SHARD_BYTES,
) -> None:
    """Writes examples as a TFDS data set in ArrayRecord, one record a group, so that random access is cheap.

    The same examples are the same bytes. `dataset_info.json` comes last: a data set is complete or not there.

    Args:
      directory: the folder of the data set; created, existing files of the same name are overwritten.
      splits: split name -> examples, consumed once and never held in memory together.
      name: the name of the data set, lower case with underscores.
      metadata: JSON-able values to keep with the data, such as the list of classes.
      shard_bytes: of records, after which a file ends.

    Raises:
      RecordError: an image is not encoded.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = {
        split: shards.write(directory, name, split, map(serialise, examples), shard_bytes)
        for split, examples in splits.items()
    }
    shards.write_info(directory, name, found, metadata or {}, features())


def read(directory, split: str, open_files: int = reading.OPEN_FILES) -> "Source":
    """Opens a split for random access; see `Source`.

    Args:
      directory: a folder with `dataset_info.json`, or one whose version sub-folders (`1.0.0`) have it: newest counts.
      split: a split, or a slice of one in TFDS notation such as `train[:10%]`.
      open_files: record files that a process has open at most.

    Raises:
      DataSourceError: the folder holds no data set, or the data set has no such split.
    """
    builder = _builder(directory)
    name = split.split("[")[0]
    sizes = {key: info.num_examples for key, info in builder.info.splits.items()}
    if not sizes.get(name):
        there = ", ".join(f"{key} ({size} examples)" for key, size in sizes.items()) or "none"
        raise DataSourceError(
            f"split {name!r} is not in {directory}; there are: {there}; set config.data.split to one of them"
        )
    return Source(reading.RecordFiles(builder.info.splits[split].file_instructions, open_files))


def splits(directory) -> dict[str, int]:
    """The splits of a data set that have examples, and how many.

    Raises:
      DataSourceError: the folder holds no data set.
    """
    return {name: info.num_examples for name, info in _builder(directory).info.splits.items() if info.num_examples}


def ranges(directory, split: str) -> list[tuple[str, int, int]]:
    """Which records a slice such as `train[:10%]` has: the split, the first one and the one behind the last."""
    infos = _builder(directory).info.splits
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return [
        (part.splitname, part.from_ or 0, infos[part.splitname].num_examples if part.to is None else part.to)
        for part in parts
    ]


def fingerprint(directory, split: str) -> dict:
    """What tells a split from another one, wherever it lies and whenever it was copied.

    The number of examples, the bytes of their files and a hash over the stored bytes of 128 records, spread evenly
    from the first to the last: quick for any size, but blind to a change elsewhere that keeps the size (our choice).

    Returns:
      `{"examples": int, "bytes": int, "sample": hexadecimal}`.

    Raises:
      DataSourceError: as `read`.
    """
    source, name = read(directory, split), split.split("[")[0]
    sample = hashlib.sha256()
    for index in np.linspace(0, len(source) - 1, min(len(source), _SAMPLED), dtype=int):
        sample.update(source.stored(int(index)))
    size = sum(Path(path).stat().st_size for path in _builder(directory).info.splits[name].filepaths)
    return {"examples": len(source), "bytes": size, "sample": sample.hexdigest()[:16]}


def metadata(directory) -> dict:
    """The values that were stored with the data set, such as its classes.

    Raises:
      DataSourceError: the folder holds no data set.
    """
    return dict(_builder(directory).info.metadata or {})


def _builder(directory):
    return read_only_builder.builder_from_directory(find_directory(directory))


def find_directory(directory) -> Path:
    """The folder that holds `dataset_info.json`: `directory` itself or its newest version sub-folder.

    Raises:
      DataSourceError: there is none; the text gives the path, the key and the command that makes one.
    """
    directory = Path(directory)
    found = [path.parent for path in directory.glob("*/dataset_info.json") if _version(path.parent)]
    if (directory / "dataset_info.json").is_file():
        return directory
    if found:
        return max(found, key=_version)
    what = (
        "has no dataset_info.json" if directory.is_dir() else "is a file" if directory.is_file() else "does not exist"
    )
    raise DataSourceError(
        f"no data set at {directory} (it {what}); `python -m tools.prepare FORMAT --output {directory}` makes one "
        "(FORMAT is scenes, jsonl, ...: --help), or set config.data.source to the folder of one that is prepared"
    )


def _version(path: Path) -> tuple[int, ...]:
    parts = path.name.split(".")
    return tuple(map(int, parts)) if len(parts) == 3 and all(part.isdigit() for part in parts) else ()


class Source:
    """Random access to the examples of a split: `len(source)` and `source[index] -> Example`.

    Images stay encoded. Picklable, so that worker processes open their own files. A read that fails is tried again,
    with the files opened anew: network disks falter for moments.
    """

    def __init__(self, raw):
        self._raw = raw

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index) -> Example:
        """One example.

        Raises:
          DataSourceError: it could not be read in several tries; the text names the file.
        """
        try:
            record = self._raw[index]
        except _READ_ERRORS:
            record = self._read_again(index)
        return parse(record)

    def _read_again(self, index) -> bytes:
        waits = tenacity.wait_exponential(multiplier=_FIRST_WAIT)
        try:
            for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(_TRIES), wait=waits, reraise=True):
                with attempt:
                    self._raw = pickle.loads(pickle.dumps(self._raw))  # opens the files anew: a failed reader stays so
                    return self._raw[index]
        except _READ_ERRORS as error:
            raise DataSourceError(
                f"record {index} in {self._file(index)} cannot be read, tried {_TRIES + 1} times: {error}; mend the "
                "disk or prepare the data set again"
            ) from error
        raise AssertionError("the last try returns or raises")

    def _file(self, index: int) -> str:
        path, position = self._raw.place(index)
        return f"{path} (its number {position})"

    def stored(self, index: int) -> bytes:
        """The example as it is stored."""
        return self._raw[index]

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Source({self._raw!r}, {len(self)} examples)"


def serialise(example: Example) -> bytes:
    """The stored form of an example: what TFDS's serializer makes of `features()`, but always the same bytes.

    TFDS leaves the order of a proto's map to chance, and takes ten times as long.
    """
    if not isinstance(example["image"], bytes):
        kind = type(example["image"]).__name__
        raise RecordError(f"record {example['id']}: image is {kind}; give the encoded JPEG or PNG bytes")
    stored = _Stored()
    feature = stored.features.feature
    feature["id"].bytes_list.value.append(example["id"].encode())
    feature["image"].bytes_list.value.append(example["image"])
    feature["captions"].bytes_list.value.extend(caption.encode() for caption in example["captions"])
    for name, fields in _LISTS.items():
        for field in fields:
            _fill(feature[f"{name}/{field}"], field, [row[field] for row in example.get(name, [])])
    return stored.SerializeToString(deterministic=True)


def _fill(feature, field: str, values: list) -> None:
    if field == "box":
        feature.float_list.value.extend(np.asarray(values, np.float32).ravel().tolist())
    elif field in _TEXTS:
        feature.bytes_list.value.extend(value.encode() for value in values)
    else:
        feature.int64_list.value.extend(values)


def parse(record: bytes) -> Example:
    """Reads the stored proto directly: TFDS's general parser makes NumPy arrays of every field and is far slower."""
    stored = _Stored.FromString(record).features.feature
    return {
        "id": stored["id"].bytes_list.value[0].decode(),
        "image": stored["image"].bytes_list.value[0],
        "captions": _texts(stored["captions"]),
        **{name: _parse_list(stored, name, fields) for name, fields in _LISTS.items()},
    }


def _parse_list(stored, name: str, fields: tuple[str, ...]) -> list[dict]:
    columns = [_column(stored[f"{name}/{field}"], field) for field in fields]
    return [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]


def _column(feature, field: str):
    if field == "box":
        return np.array(feature.float_list.value, np.float32).reshape(-1, 4)
    return _texts(feature) if field in _TEXTS else feature.int64_list.value


def _texts(feature) -> list[str]:
    return [value.decode() for value in feature.bytes_list.value]


def regions_of(example: Example, caption: int) -> list[dict]:
    """The regions of a row that shows this caption: those it names, then those that no caption names.

    Readers store a box that captions name once without a span and once for each of them. So that a row has it once, a
    region without span is left out where the caption names the same box.
    """
    named = [region for region in example["regions"] if region["caption"] == caption]
    boxes = {tuple(map(float, region["box"])) for region in named}
    return named + [
        region
        for region in example["regions"]
        if region["caption"] < 0 and tuple(map(float, region["box"])) not in boxes
    ]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with an example: a short code, one line, and the region it is about (-1: none)."""

    code: str
    text: str
    region: int = -1


def check(example: Example, *, decode_image: bool = True) -> list[str]:
    """Says what is wrong with an example; an empty list means that it can be used.

    Args:
      example: see the head of this module.
      decode_image: whether to try the image too (readers that decode it anyway leave that out).

    Returns:
      One line a problem, each with the record's id and both values.
    """
    problems = [problem.text for problem in examine(example)]
    if decode_image:
        problems += _image_problems(example["image"])
    return [f"record {example['id']}: {problem}" for problem in problems]


def examine(example: Example) -> list[Problem]:
    """What is wrong with an example but its image, which is left alone; empty where nothing is."""
    captions = example["captions"]
    problems = [] if captions else [Problem("no_caption", "it has no caption")]
    for i, text in enumerate(captions):
        if not text.strip():
            problems.append(Problem("empty_caption", f"captions[{i}] is empty: {text!r}"))
    for i, phrase in enumerate(example.get("phrases", [])):
        problems += _span_problems(f"phrases[{i}]", phrase, captions)
    for i, region in enumerate(example.get("regions", [])):
        found = _box_problems(f"regions[{i}].box", region["box"])
        if (region["caption"], region["start"], region["end"]) != (-1, -1, -1):
            found += _span_problems(f"regions[{i}]", region, captions)
        problems += [dataclasses.replace(problem, region=i) for problem in found]
    for i, negative in enumerate(example.get("negatives", [])):
        problems += _caption_problems(f"negatives[{i}]", negative, captions)
    return problems


def _caption_problems(where: str, part: dict, captions: list[str]) -> list[Problem]:
    if 0 <= part["caption"] < len(captions):
        return []
    text = f"{where} names caption {part['caption']} but there are {len(captions)} captions"
    return [Problem("bad_span", text)]


def _span_problems(where: str, part: dict, captions: list[str]) -> list[Problem]:
    problems = _caption_problems(where, part, captions)
    start, end = part["start"], part["end"]
    if not problems and not 0 <= start < end <= len(captions[part["caption"]]):
        length = len(captions[part["caption"]])
        text = f"{where} spans characters {start} to {end} but caption {part['caption']} has 0 to {length}"
        problems = [Problem("bad_span", text)]
    return problems


def _box_problems(where: str, box) -> list[Problem]:
    y0, x0, y1, x1 = values = [round(float(value), 6) for value in box]
    # Written so that NaN, for which every comparison is false, is a problem too.
    if not all(0 <= value <= 1 for value in values):
        code = "nan_box" if any(map(math.isnan, values)) else "box_outside"
        text = f"{where} {values} leaves the range 0 to 1 (y0, x0, y1, x1 as shares of height and width)"
        return [Problem(code, text)]
    if not (y0 < y1 and x0 < x1):
        return [Problem("empty_box", f"{where} {values} is empty (y0 {y0} to y1 {y1}, x0 {x0} to x1 {x1})")]
    return []


def _image_problems(data: bytes) -> list[str]:
    try:
        images.decode(data)
    except RecordError as error:
        return [str(error)]
    return []
