"""Labels of regions found in the words of captions."""

import argparse
import json

import pytest

from harmopower.data.annotations import match, overlays, protocol
from tests.data.annotations import common


def region(label, box=(0, 0, 1, 1), span=(-1, -1, -1), **more):
    return {"box": list(box), "caption": span[0], "start": span[1], "end": span[2], "text": "", "label": label} | more


def matched(captions, regions, synonyms="") -> tuple[list, match.Annotator]:
    """The spans in words of the regions, and the annotator with its counts."""
    annotator = match.Annotator(argparse.Namespace(synonyms=str(synonyms)))
    example = {"id": "a", "captions": captions, "regions": regions}
    (found,) = annotator.annotate(protocol.Part("", "train", 0, 1), [example])
    words = [
        (part["label"], part["caption"], captions[part["caption"]][part["start"] : part["end"]])
        for part in found["regions"]
        if part["caption"] >= 0
    ]
    return words, annotator


def test_whole_words_and_plurals_in_every_caption_that_has_them():
    captions = ["Two DOGS and a hotdog", "the catalogue", "a dog, a  traffic\tlight"]
    words, annotator = matched(captions, [region("dog"), region("cat"), region("traffic light"), region("")])
    assert words == [("dog", 0, "DOGS"), ("dog", 2, "dog"), ("traffic light", 2, "traffic\tlight")]
    assert annotator.counts == {"labelled": 3, "named": 2}
    assert match.Annotator.summary(annotator.counts) == ["3 regions with a label, 2 of them named by a caption (66.7%)"]


def test_synonyms_stand_for_labels(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"Couch": ["sofa", "settee"]}))
    assert matched(["a cat on two sofas"], [region("couch")], path)[0] == [("couch", 0, "sofas")]
    assert matched(["a cat on two sofas"], [region("couch")])[0] == []


def test_spans_that_are_there_stay_and_scores_go_along():
    spanned = region("dog", span=(0, 6, 9), score=0.5)
    annotator = match.Annotator(argparse.Namespace(synonyms=""))
    example = {"id": "a", "captions": ["a dog dog", "my dog"], "regions": [spanned]}
    (found,) = annotator.annotate(protocol.Part("", "train", 0, 1), [example])
    assert found["regions"] == [spanned, spanned | {"caption": 1, "start": 3, "end": 6}]
    assert annotator.counts["named"] == 1


@pytest.mark.parametrize("text", ["[]", "{", '{"couch": "sofa"}', '{"couch": [""]}'])
def test_bad_synonyms_are_one_line(tmp_path, text, capsys):
    path = tmp_path / "words.json"
    path.write_text(text)
    data = common.data_set(tmp_path / "data", 1, 1)
    assert common.run(data, "match", "--name", "match", "--synonyms", path) == 2
    assert f"--synonyms {path} is no JSON of labels" in capsys.readouterr().err
    assert not (data / overlays.FOLDER).exists()
