"""Leak guards: images of a test set that lie in a training set under another name, found by their COCO ids.

Half of Visual Genome is COCO's; RefCOCO's val and test images lie in train2014, LVIS's val draws on train2017, and so
does Karpathy's test. A hash of bytes misses copies that were encoded again, so ids are the guard: readers that know an
image's COCO id give it as an alias, `coco:391895`. `--guard NAME=FILE` reads the ids to keep out from the published
file of the test set itself.
"""

from collections.abc import Callable, Iterator
import json
from pathlib import Path

from harmopower.data.readers.protocol import ReaderError


def _of_images(content) -> Iterator[int]:
    yield from (image["id"] for image in content["images"])


def _of_karpathy(content) -> Iterator[int]:
    yield from (image["cocoid"] for image in content["images"] if image["split"] in ("val", "test"))


def _of_refs(content) -> Iterator[int]:
    yield from (ref["image_id"] for ref in content if ref["split"] != "train")


# name -> (what its file is, which ids it keeps out)
GUARDS: dict[str, tuple[str, Callable[..., Iterator[int]]]] = {
    "coco": ("instances_ or captions_val2017.json: every image in it", _of_images),
    "lvis": ("lvis_v1_val.json: every image in it", _of_images),
    "karpathy": ("dataset_coco.json: the images of val and test", _of_karpathy),
    "refcoco": ("the refs of RefCOCO, + or g as a JSON list or Parquet: the images that are not of train", _of_refs),
}


def help_text() -> str:
    """What `--guard` takes."""
    kinds = "; ".join(f"{name}=FILE, {what}" for name, (what, _) in GUARDS.items())
    return f"leave out images by their COCO ids, which a published test set's own file names: {kinds}"


def read(guard: str) -> tuple[str, frozenset[str]]:
    """Reads `NAME=FILE`: the name, and the aliases that it keeps out.

    Raises:
      ReaderError: there is no such guard, or its file is not laid out as it should be.
    """
    name, equals, path = guard.partition("=")
    if name not in GUARDS or not equals:
        raise ReaderError(f"--guard {guard}: give NAME=FILE, NAME being one of {', '.join(GUARDS)}")
    what, ids = GUARDS[name]
    try:
        found = frozenset(f"coco:{int(number)}" for number in ids(_content(Path(path))))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReaderError(f"--guard {guard}: the file should be {what}; it cannot be read so: {error!r}") from error
    if not found:
        raise ReaderError(f"--guard {guard}: the file names no image to keep out; it should be {what}")
    return name, found


def _content(path: Path):
    if path.suffix != ".parquet":
        return json.loads(path.read_bytes())
    import pyarrow.parquet  # slow to import, and only this form needs it

    return pyarrow.parquet.read_table(path, columns=["image_id", "split"]).to_pylist()
