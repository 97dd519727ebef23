"""The text of a region: its span in the caption, else its own text, else its label in a prompt (METHOD section 5).

A region may have several: each of the three, and further ones where its box is stored more than once, each time with
another text, as readers store a box with several descriptions. `data.region_text_choice` says what becomes of them:

    first   the order above counts; a box that is stored twice without a span is two regions
    drawn   each box is one region, with one of all its texts, drawn anew each time

A span gives its words as tokens of the caption; all other texts are encoded alone, and LRC compares both in one loss.
`data.label_prompt` may hold several prompts, `a photo of a {}|a picture of a {}`; one is drawn for each region. Which
one was drawn does not make labels different: equal ones stay each other's positives.
"""

from typing import NamedTuple

import numpy as np

from harmopower.data import records

SEPARATOR = "|"
_NO_SPAN = {"caption": -1, "start": -1, "end": -1}


class Text(NamedTuple):
    """The words of a region, and words that are equal for equal texts, whichever prompt was drawn; "" for none."""

    words: str
    same: str


def prompts(label_prompt: str) -> list[str]:
    """The prompts of `data.label_prompt`."""
    return [prompt.strip() for prompt in label_prompt.split(SEPARATOR)]


def regions_of(example: dict, caption: int, choice: str, rng: np.random.Generator) -> list[dict]:
    """The regions of a row that shows this caption: `first` those of `records.regions_of`, `drawn` each box once."""
    if choice == "first":
        return records.regions_of(example, caption)
    boxes: dict[tuple, list[dict]] = {}
    for region in example["regions"]:
        if region["caption"] in (caption, -1):
            boxes.setdefault(tuple(map(float, region["box"])), []).append(region)
    return [_draw(regions, rng) for regions in boxes.values()]


def _draw(regions: list[dict], rng: np.random.Generator) -> dict:
    """One of the texts of regions with one box; the region has no other one."""
    texts = [text for region in regions for text in _apart(region)]
    return texts[int(rng.integers(len(texts)))] if texts else regions[0]


def _apart(region: dict) -> list[dict]:
    """The region once for each of its texts."""
    bare = region | _NO_SPAN | {"text": "", "label": ""}
    found = [region | {"text": "", "label": ""}] if region["caption"] >= 0 else []
    return found + [bare | {name: region[name]} for name in ("text", "label") if region[name].strip()]


def text_of(region: dict, caption: str, label_prompts: list[str], rng: np.random.Generator) -> Text:
    """The text of a region of that caption; draws where the label is what it has and there are several prompts."""
    if region["caption"] >= 0:
        words = caption[region["start"] : region["end"]].strip()
        return Text(words, words)
    if own := region["text"].strip():
        return Text(own, own)
    label = region["label"].strip()
    if not label:
        return Text("", "")
    drawn = int(rng.integers(len(label_prompts))) if len(label_prompts) > 1 else 0
    return Text(*(label_prompts[number].replace("{}", label) for number in (drawn, 0)))
