"""Cards as one HTML file that needs nothing else: no network, no other file, no script but its own."""

import base64
from collections.abc import Iterable
import dataclasses
import importlib.resources
import math

import jinja2
import numpy as np
from PIL import Image

from harmopower.data import images
from harmopower.data.inspecting import cards

SIDE = 320  # pixels of a thumbnail's longer side
_IMAGE_BYTES = 16_000  # 200 of them, coded for a page, are 4.3 MB
_QUALITIES = (88, 75, 60, 45, 30)
KINDS = {"cut": "caption is cut", "no span": "a region without a span", "most boxes": "most boxes", "bad": "bad record"}
_HUE_STEP = 137.508  # the golden angle: neighbours in number are far apart in colour, however many there are


def render(made: Iterable[cards.Card], title: str, facts: Iterable[tuple[str, str]] = ()) -> str:
    """The page.

    Args:
      made: the cards, in order; "most boxes" is filled in here, of the tenth of them that has most.
      title: its heading, such as the name of the data set.
      facts: names and values for the table at the top.
    """
    shown = [_Shown(card, *_thumbnail(card.image)) for card in made]
    counts = sorted((len(card.card.boxes) for card in shown), reverse=True)
    most = counts[len(counts) // 10] if counts else 0
    for card in shown:
        if len(card.card.boxes) >= most > counts[-1]:
            card.card.kinds.add("most boxes")
    found = {kind: sum(kind in card.card.kinds for card in shown) for kind in KINDS}
    return _template().render(title=title, facts=list(facts), cards=shown, kinds=KINDS, found=found)


@dataclasses.dataclass(frozen=True)
class _Shown:
    card: cards.Card
    source: str
    width: int
    height: int


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["colour"] = _colour
    text = importlib.resources.files("harmopower.data.inspecting").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _colour(number: int) -> str:
    return f"hsl({number * _HUE_STEP % 360:.0f} 75% 42%)" if number >= 0 else "#777"


def _thumbnail(pixels: np.ndarray | None) -> tuple[str, int, int]:
    """A small JPEG as an address of itself, and its sides; empty for no image."""
    if pixels is None:
        return "", SIDE, SIDE // 2
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    width, height = image.size
    coded = next(
        (data for quality in _QUALITIES if len(data := images.encode_jpeg(image, quality)) <= _IMAGE_BYTES), b""
    )
    while not coded:  # noise, which no quality makes small
        image = image.resize([math.ceil(side * 0.7) for side in image.size])
        data = images.encode_jpeg(image, _QUALITIES[-1])
        coded = data if len(data) <= _IMAGE_BYTES else b""
    return f"data:image/jpeg;base64,{base64.b64encode(coded).decode()}", width, height
