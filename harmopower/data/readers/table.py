"""Tables of image paths and captions: Parquet, CSV or TSV with a header, such as open_clip's training files.

    filepath,title
    photos/17.jpg,"a dog, on a sofa"

Columns are named: `--image-column filepath --caption-column title`; several caption columns make several captions, of
which empty ones are left out. `--id-column` gives ids (else the row's number), `--split-column` splits. Paths are
relative to `--images`, or to the table's folder; one that climbs out of it is refused.
"""

import argparse
from collections.abc import Iterator
import csv
import dataclasses
import itertools
from pathlib import Path

from harmopower.data.readers import protocol
from harmopower.data.readers.protocol import BadSample

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LONGEST_FIELD = 2**24  # characters; Python's own limit is 128 Ki, which a file with a stray quote exceeds


class Reader(protocol.Reader):
    """Parquet, CSV or TSV tables of image paths and captions."""

    example = (
        "python -m tools.prepare table --input pairs.csv --image-column filepath --caption-column title "
        "--output data/pairs"
    )

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        for _, path in self.inputs:
            if path.suffix not in (".parquet", *_SEPARATORS):
                raise protocol.ReaderError(f"--input {path}: its ending says no table; .parquet, .csv or .tsv do")
            self._refuse_missing(path)

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Adds this format's options."""
        protocol.add_input(parser, "tables, .parquet, .csv or .tsv")
        parser.add_argument("--images", metavar="DIR", help="folder of the paths (default: that of the table)")
        parser.add_argument("--image-column", default="image", metavar="NAME", help="paths (default %(default)s)")
        parser.add_argument(
            "--caption-column", nargs="+", default=["caption"], metavar="NAME", help="captions (default: caption)"
        )
        parser.add_argument("--id-column", default="", metavar="NAME", help="ids (default: the number of the row)")
        parser.add_argument("--split-column", default="", metavar="NAME", help="splits (default: those of --input)")

    @property
    def _columns(self) -> list[str]:
        options = self.options
        named = [options.image_column, *options.caption_column, options.id_column, options.split_column]
        return list(dict.fromkeys(filter(None, named)))

    def _refuse_missing(self, path: Path) -> None:
        there = _header(path)
        missing = [name for name in self._columns if name not in there]
        if missing:
            raise protocol.ReaderError(
                f"--input {path} has no column {missing[0]!r}; it has: {', '.join(there)}; name them with "
                "--image-column and --caption-column"
            )

    def units(self) -> Iterator[protocol.Unit]:
        """Ranges of rows; `place` is the first row, the one behind the last, the input."""
        for number, (_, path) in enumerate(self.inputs):
            paths = (self._path_of(path, row) for row in _rows(path, [self.options.image_column]))
            for unit in protocol.units_of_images(path, "", paths):
                yield dataclasses.replace(unit, place=(*unit.place, number))

    def _path_of(self, table: Path, row: dict) -> str:
        try:
            return str(protocol.inside(self._folder(table), _text(row, self.options.image_column)))
        except BadSample:
            return ""  # it is reported when the row is read

    def read(self, unit: protocol.Unit) -> Iterator[protocol.Item]:
        """The rows of a range."""
        first, last, number = unit.place
        path = self.inputs[number][1]
        for place, row in enumerate(_rows(path, self._columns, first, last), start=first + 1):
            name = f"{number}-{place}" if len(self.inputs) > 1 else f"{place}"
            yield protocol.attempt(name, self._found, row, name, number)

    def _folder(self, table: Path) -> Path:
        return Path(self.options.images) if self.options.images else table.parent

    def _found(self, row: dict, name: str, number: int) -> protocol.Found:
        options, (split, table) = self.options, self.inputs[number]
        captions = [text for column in options.caption_column if (text := _text(row, column).strip())]
        if not captions:
            raise BadSample("empty_caption", f"row {name}: {', '.join(options.caption_column)} are empty")
        if options.split_column:
            split = _text(row, options.split_column)
            if not protocol.is_split(split):
                raise BadSample("bad_field", f"row {name}: {options.split_column} {split!r} is no name of a split")
        image = protocol.read_image(self._folder(table), _text(row, options.image_column))
        identity = _text(row, options.id_column) if options.id_column else name
        example = {"id": identity, "image": image, "captions": captions}
        return protocol.Found(example, split, where=f"{table.name} row {name}")


def _text(row: dict, column: str) -> str:
    """A cell as text; undecodable bytes of a CSV come as lone surrogates."""
    value = row.get(column)
    text = "" if value is None else str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSample("not_utf8", f"column {column}: {text!r} is not UTF-8") from error
    return text


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet  # slow to import, and only this format needs it

        try:
            return pyarrow.parquet.read_schema(path).names
        except (OSError, pyarrow.ArrowException) as error:
            raise protocol.ReaderError(f"--input {path} cannot be read as Parquet: {error}") from error
    with _open(path) as file:
        return next(csv.reader(file, delimiter=_SEPARATORS[path.suffix]), [])


def _rows(path: Path, columns: list[str], first: int = 0, last: int | None = None) -> Iterator[dict]:
    """Rows `first` to `last` as dicts of those columns."""
    if path.suffix == ".parquet":
        yield from itertools.islice(_parquet_rows(path, columns, first), None if last is None else last - first)
        return
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(path) as file:
        reader = csv.DictReader(file, delimiter=_SEPARATORS[path.suffix])
        try:
            yield from itertools.islice(reader, first, last)
        except csv.Error as error:
            raise protocol.ReaderError(f"--input {path} row {reader.line_num}: {error}") from error


def _open(path: Path):
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _parquet_rows(path: Path, columns: list[str], first: int) -> Iterator[dict]:
    """Rows from `first` on; the row groups before it are not read."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first >= size:
                first -= size
                continue
            for batch in file.iter_batches(columns=columns, row_groups=[group], batch_size=1024):
                yield from batch.slice(first).to_pylist()
                first = max(first - len(batch), 0)
