"""Boxes that somebody has made already, in a file: Parquet, JSON or lines of JSON, by record id.

    {"id": "000017", "boxes": [[0.1, 0.2, 0.5, 0.6]], "scores": [0.9], "labels": ["dog"], "texts": ["the wet dog"]}

is a row; in Parquet these are columns. All but `id` and `boxes` may be missing. JSON may also be one object, id to
boxes or id to such a row. What the four numbers of a box mean, `--box-format` says.
"""

from collections.abc import Iterator, Mapping
import json
from pathlib import Path

from harmopower.data.annotations.overlays import AnnotationError

_LISTS = ("boxes", "scores", "labels", "texts")


def read(path: str) -> dict[str, dict]:
    """The rows by their ids, all of them in memory.

    Raises:
      AnnotationError: it cannot be read, a row is none, or an id comes twice.
    """
    found: dict[str, dict] = {}
    try:
        for number, row in enumerate(_rows(Path(path))):
            name, row = _checked(row, f"row {number} of {path}")
            if name in found:
                raise AnnotationError(f"row {number} of {path} has id {name!r}, which an earlier row has too")
            found[name] = row
    except (OSError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"--source file:{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return found


def _rows(path: Path) -> Iterator:
    if path.suffix == ".parquet":
        import pyarrow.parquet  # slow to import

        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        yield from map(json.loads, filter(str.strip, text.splitlines()))
        return
    value = json.loads(text)
    if isinstance(value, Mapping):
        value = [{"id": name, **(row if isinstance(row, Mapping) else {"boxes": row})} for name, row in value.items()]
    yield from value


def _checked(row, where: str) -> tuple[str, dict]:
    """The id as text, and the lists of a row, all as long as its boxes."""
    if not isinstance(row, Mapping) or row.get("id") is None or row.get("boxes") is None:
        raise AnnotationError(f"{where} has no id or no boxes: {str(row)[:100]}")
    lists = {name: list(row[name]) for name in _LISTS if row.get(name) is not None}
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) > 1:
        raise AnnotationError(f"{where} ({row['id']!r}) has lists of different lengths: {sizes}")
    return str(row["id"]), lists
