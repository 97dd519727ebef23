"""Published sets: where they lie below `config.evaluation.data`, how many images they have, and how to get them.

A set is a folder of the root called by its name (`food101`, `vtab/caltech101`), by clip_benchmark's on its hub
(`wds_food101`, `wds_vtab-caltech101`), or by DataComp's (the same with `_test`); `sets.json` in the root may map names
to other folders, and adds sets that are not listed here.
"""

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
from typing import Any

from harmopower.data.records import DataSourceError
from harmopower.errors import ConfigError

FILE = "sets.json"
# What `sets.json` may name that is no set of zero-shot classification.
RESERVED = {
    *("mscoco_captions", "flickr8k", "flickr30k", "coco_val2017", "flickr30k_entities"),
    *("sugar_crepe", "winoground", "aro", "fg_ovd", "val2017", "coco", "lvis"),
}


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a set besides its files.

    Attributes:
      name: clip_benchmark's, without `vtab/`.
      hub: clip_benchmark's whole name, as its hub repository is called after; empty where there is none.
      size: images that the published figures are of; 0 = not asserted.
      main: the figure that is published for it.
      others: further names of folders.
      get: what to put there, where it is on no hub.
    """

    name: str
    hub: str
    size: int = 0
    main: str = "acc1"
    others: tuple[str, ...] = ()
    get: str = ""

    @property
    def folders(self) -> list[str]:
        """Names of folders that may hold it, the first one is the one to put it in."""
        flat = self.hub.replace("/", "-")
        ours = (self.hub, f"wds_{flat}", f"wds_{flat}_test", flat) if flat else ()
        return list(dict.fromkeys((self.name, *ours, *self.others)))


def find(root: str, published: Published) -> Path | str:
    """The folder of a set, or a line that says how to get it and where to put it.

    Raises:
      ConfigError: `sets.json` is no map of names to folders, or names one that is not there.
    """
    if not root:
        return "config.evaluation.data is empty; set it (--data) to the folder that holds the sets"
    mapped = mapping(root)
    if published.name in mapped:
        return mapped[published.name]
    for name in published.folders:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    if published.get:
        return f"not on disk; put into {Path(root) / published.name} {published.get}"
    if not published.hub:
        return f"not on disk; make it with tools.prepare as {Path(root) / published.name} (docs/evaluation.md)"
    repository = f"clip-benchmark/wds_{published.hub.replace('/', '-')}"
    return f"not on disk; get the data set {repository} of the Hugging Face hub as {Path(root) / published.name}"


def opened(root: str, published: Published, task: Callable[[Path, Published], Any]):
    """`task(folder, published)`, or why it is not there.

    Raises:
      ConfigError: see `find`.
    """
    folder = find(root, published)
    if isinstance(folder, str):
        return folder
    try:
        return task(folder, published)
    except DataSourceError as error:
        return str(error)


def images_of(folder: Path, name: str) -> Path:
    """The folder of images of that name, in a set's folder, beside it, or in that of COCO.

    Raises:
      DataSourceError: there is none.
    """
    for place in (folder / name, folder.parent / name, folder.parent / "coco" / name):
        if place.is_dir():
            return place
    raise DataSourceError(f"{folder} has no {name} in or beside it, the folder of its images")


def mapping(root: str) -> dict[str, Path]:
    """What `sets.json` of the root says: set name -> folder.

    Raises:
      ConfigError: it is no such map, or a folder is not there.
    """
    path = Path(root) / FILE
    if not root or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        folders = {name: Path(root) / folder for name, folder in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f'{path} must be an object like {{"food101": "/data/food"}}: {error}') from error
    for name, folder in folders.items():
        if not folder.is_dir():
            raise ConfigError(f"{path} maps {name} to {folder}, which is no folder")
    return folders
