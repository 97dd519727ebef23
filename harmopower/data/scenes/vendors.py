"""Drawings of emoji by their vendors, as the npm packages `emoji-datasource-VENDOR` hold them.

    package.json   emoji.json                  a list: name, category, image, has_img_VENDOR, ...
    img/VENDOR/64/1f32d.png                    64 x 64 pixels with alpha

Layout: iamcal/emoji-data, README.md and the published packages 16.0.0. A class is a thing of which one can say "a", by
the name that Unicode gave it in up to three words; which names those are is our choice. The drawings are the vendors':
they are read where the user has put them, and nothing of them is kept here.
"""

import dataclasses
import functools
import io
import json
from pathlib import Path
import re

import numpy as np
from PIL import Image

from harmopower.errors import UserError

CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places")
_NAME = re.compile(r"[a-z]+(?:[ -][a-z]+)*")
_MOST_WORDS = 3
# Words of the grammar, and of names that say what no drawing shows.
_NOT_IN_A_NAME = frozenset(
    ("and", "with", "without", "of", "in", "on", "to", "for", "over", "no", "at", "from", "the")
    + ("left", "right", "above", "below", "sign", "symbol", "small", "large")
)
_TOO_ALIKE = ("time",)  # clock faces, an hour apart
_ONE_THING = ("ss", "us", "is", "as")  # other names that end in s are plural


class VendorError(UserError, ValueError):
    """A folder that is no such package; the text says what is missing and how to get it."""


@dataclasses.dataclass(frozen=True)
class Vendor:
    """A package on the disk.

    Attributes:
      name: such as `google`.
      files: class name -> its drawing.
    """

    name: str
    files: dict[str, Path]

    @classmethod
    def at(cls, folder) -> "Vendor":
        """Opens a package that was installed or unpacked in a folder.

        Raises:
          VendorError: it is none.
        """
        folder = Path(folder)
        names = sorted(path.parent.name for path in folder.glob("img/*/64"))
        try:
            rows = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
            if len(names) != 1 or not isinstance(rows, list):
                raise ValueError(f"it has drawings of {', '.join(names) or 'no vendor'}, and one is wanted")
            found = dict(filter(None, (_drawing(folder, names[0], row) for row in rows)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise VendorError(
                f"{folder} is no package of drawings ({error}); `npm install emoji-datasource-google` puts one into "
                "node_modules/emoji-datasource-google, with emoji.json and img/google/64"
            ) from error
        return cls(names[0], {name: path for name, path in found.items() if path.is_file()})

    @functools.lru_cache(maxsize=4096)  # noqa: B019, a process has two of them
    def drawing(self, name: str) -> np.ndarray:
        """The drawing of a class, cut to what is not transparent: float32 [h, w, 4], 0..255 and alpha 0..1.

        Raises:
          VendorError: it is no picture, or an empty one.
        """
        try:
            with Image.open(io.BytesIO(self.files[name].read_bytes())) as image:
                whole = image.convert("RGBA")
        except (OSError, SyntaxError) as error:  # what Pillow raises of a broken PNG
            raise VendorError(f"{self.files[name]} is no picture: {error}") from error
        box = whole.getchannel("A").getbbox()
        if box is None:
            raise VendorError(f"{self.files[name]} shows nothing")
        return np.asarray(whole.crop(box), np.float32) / np.array([1, 1, 1, 255], np.float32)

    def __hash__(self) -> int:
        return id(self)


def _drawing(folder: Path, vendor: str, row: dict) -> tuple[str, Path] | None:
    name = (row["name"] or "").lower()
    is_thing = row["category"] in CATEGORIES and row["subcategory"] not in _TOO_ALIKE
    if not (is_thing and row[f"has_img_{vendor}"] and is_name_of_one(name)):
        return None
    return name, folder / "img" / vendor / "64" / row["image"]


def is_name_of_one(name: str) -> bool:
    """Whether one can say "a ..." of it in a caption of the grammar."""
    words = name.split()
    if not _NAME.fullmatch(name) or len(words) > _MOST_WORDS or _NOT_IN_A_NAME & set(words):
        return False
    return not words[-1].endswith("s") or words[-1].endswith(_ONE_THING)


def common(vendors: list[Vendor]) -> list[str]:
    """The classes that all vendors have drawn, sorted."""
    return sorted(set.intersection(*(set(vendor.files) for vendor in vendors)))
