"""JSON lines: what goes in comes out."""

import json
from pathlib import Path
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from harmopower.data import records
from tests.data.preparing import common

# Everything but halves of surrogate pairs, which are no text; with a letter, so that no caption is empty.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: f"{text}a")
SHARES = st.floats(0, 1, width=32)


@st.composite
def lines(draw) -> dict:
    captions = draw(st.lists(TEXTS, min_size=1, max_size=3))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        y, x = (sorted(draw(st.lists(SHARES, min_size=2, max_size=2))) for _ in range(2))
        if y[1] - y[0] < 1e-5 or x[1] - x[0] < 1e-5:
            continue
        box = {"box": [y[0], x[0], y[1], x[1]], "label": draw(TEXTS)}
        if draw(st.booleans()):
            caption = draw(st.integers(0, len(captions) - 1))
            end = draw(st.integers(1, len(captions[caption])))
            box |= {"caption": caption, "span": [draw(st.integers(0, end - 1)), end]}
        boxes.append(box)
    return {"captions": captions, "boxes": boxes}


@settings(max_examples=25, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=6), st.booleans())
def test_what_goes_in_comes_out(made, escaped):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, line in enumerate(made):
            (folder / f"{number}.png").write_bytes(common.picture(number))
            line["image"] = f"{number}.png"
        text = "\n".join(json.dumps(line, ensure_ascii=escaped) for line in made)
        (folder / "own.jsonl").write_text(text, encoding="utf-8", newline="")
        assert common.run(folder / "own.jsonl") == 0
        found = list(records.read(folder / "out", "train"))
    assert len(found) == len(made)
    for number, (line, example) in enumerate(zip(made, found, strict=True)):
        assert example["image"] == common.picture(number) and example["captions"] == line["captions"]
        assert [region["label"] for region in example["regions"]] == [box["label"] for box in line["boxes"]]
        for box, region in zip(line["boxes"], example["regions"], strict=True):
            assert np.array_equal(np.float32(box["box"]), region["box"])
            span = [region["start"], region["end"]]
            assert (region["caption"], span) == (box.get("caption", -1), box.get("span", [-1, -1]))


def test_trees_with_escapes_of_the_treebank(tmp_path):
    caption = "a dog (brown) “runs”"
    tree = "(S (NP (NP (DT a) (NN dog)) (PRN (-LRB- -LRB-) (JJ brown) (-RRB- -RRB-))) (`` ``) (VP (VBZ runs)) ('' ''))"
    photos = common.photographs(tmp_path, 1, caption=caption, tree=tree)
    assert common.run(photos) == 0
    (example,) = records.read(tmp_path / "out", "train")
    texts = [caption[phrase["start"] : phrase["end"]] for phrase in example["phrases"]]
    assert texts == [caption, "a dog (brown)", "a dog", "(brown)", "runs"]
