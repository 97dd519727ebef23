"""Flickr30k Entities: chains, several names and boxes, counting from 1, on a miniature in the published form."""

import numpy as np
import pytest

from harmopower.data.readers import flickr30k_entities
from tests.data.readers import common

SENTENCES = """[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look at [/EN#1/people their] hands .
[/EN#3/scene The yard] is [/EN#0/notvisual it] .
[/EN#4/people/other A statue] of a café .
"""
XML = """<annotation><size><width>20</width><height>16</height><depth>3</depth></size>
<object><name>1</name><name>4</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>16</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>20</xmax><ymax>8</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""


@pytest.fixture
def folder(tmp_path):
    for name in ("Sentences", "Annotations", "images"):
        (tmp_path / name).mkdir()
    for number, split in enumerate(("train", "val")):
        _add(tmp_path, str(number))
        (tmp_path / f"{split}.txt").write_text(f"{number}\n")
    return tmp_path


def _add(folder, name, sentences=SENTENCES, xml=XML):
    (folder / "Sentences" / f"{name}.txt").write_text(sentences)
    (folder / "Annotations" / f"{name}.xml").write_text(xml)
    (folder / "images" / f"{name}.jpg").write_bytes(common.photo(0, size=(20, 16)))


def _prepare(folder, *options):
    return common.run(folder / "out", "flickr30k_entities", "--input", folder, "--images", folder / "images", *options)


def test_phrases_name_the_boxes_of_their_chains(folder):
    assert _prepare(folder) == 0
    (example,) = common.examples(folder / "out")
    assert example["captions"] == [
        "Two young guys with shaggy hair look at their hands .",
        "The yard is it .",
        "A statue of a café .",
    ]
    named = [(example["captions"][r["caption"]][r["start"] : r["end"]], r["label"]) for r in example["regions"]]
    people = ("Two young guys", "people")
    assert named == [people, people, ("their", "people"), ("their", "people"), ("A statue", "people/other")]
    left, right = [0, 0, 1, 0.5], [0, 0.5, 0.5, 1]
    np.testing.assert_allclose([r["box"] for r in example["regions"]], [left, right, left, right, left])
    assert [row["id"] for row in common.examples(folder / "out", "val")] == ["1"]


def test_unrelated_captions_and_broken_files_are_left_out(folder):
    (folder / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <sentence number>\n0 2\n0 3\n")
    (folder / "train.txt").write_text("0\nbroken\nsilent\ngone\n")
    _add(folder, "broken", xml="<annotation>")
    _add(folder, "silent", sentences="\n")
    assert _prepare(folder) == 0
    (example,) = common.examples(folder / "out")
    assert len(example["captions"]) == 1 and {part["caption"] for part in example["regions"]} == {0}
    assert common.reasons(folder / "out") == {"unreadable": 1, "no_caption": 1, "image_missing": 1}


def test_spans_lie_in_the_joined_words():
    sentence = flickr30k_entities.parse_sentence("  a [/EN#7/other  red   ball ]s , [/EN#0/notvisual it]")
    assert sentence.text == "a red ball s , it"
    assert [sentence.text[start:end] for start, end, *_ in sentence.phrases] == ["red ball", "it"]
