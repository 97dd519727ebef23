"""Scenes: deterministic, true captions, exact trees and boxes, negatives that are false."""

import io
import itertools
import re

import numpy as np
from PIL import Image
import pytest

from harmopower.data import records, trees
from harmopower.data.scenes import builder as scenes
from harmopower.data.scenes import drawing, grammar, world

KINDS = {"swap_attribute", "swap_object", "replace_attribute", "replace_object", "replace_relation"}


@pytest.fixture(scope="module")
def train():
    return [scenes.make_example("train", index) for index in range(200)]


@pytest.fixture(scope="module")
def tests():
    return {split: [scenes.make_example(split, index) for index in range(300)] for split in ("test", "test_unseen")}


def every(train, tests):
    return itertools.chain(train, *tests.values())


def test_examples_depend_on_seed_split_and_index_alone(train):
    again = scenes.make_example("train", 7)
    assert again["image"] == train[7]["image"] and again["captions"] == train[7]["captions"]
    assert scenes.make_example("train", 7, seed=1)["image"] != train[7]["image"]


def test_processes_do_not_matter(train):
    made = list(scenes.make_examples("train", 600, seed=0, image_size=64, processes=2))
    assert [example["id"] for example in made] == [f"train-{index:06d}" for index in range(600)]
    assert all(a["image"] == b["image"] and a["captions"] == b["captions"] for a, b in zip(train, made))


def test_records_are_sound(train, tests):
    assert [problem for example in every(train, tests) for problem in records.check(example)] == []


def test_a_region_links_to_the_words_that_name_it(train, tests):
    for example in every(train, tests):
        for region in example["regions"]:
            words = example["captions"][0][region["start"] : region["end"]].split()
            colour, shape = region["label"].split()
            assert shape in words and not set(words) & (set(world.SHAPES) - {shape}), (words, region)
            assert not set(words) & (set(world.COLOURS) - {colour}), (words, region)


def test_phrases_are_the_constituents_of_the_tree():
    for index in range(100):
        _scene, statement, *_ = scenes._plan("train", index, 0, 0)
        node = grammar.tree(statement)
        caption = grammar.text(node)
        spans = trees.spans_from_penn(grammar.penn(node), caption)
        assert spans[0][:2] == (0, len(caption))
        words = {match.start() for match in re.finditer(r"\S+", caption)}
        assert all(start in words and caption[start:end] == caption[start:end].strip() for start, end, _ in spans)
        named = set(grammar.entity_spans(node).values())
        assert named <= {(start, end) for start, end, _ in spans}


def test_captions_are_true_and_relations_clear():
    for index in range(200):
        scene, statement, order, _ = scenes._plan("train", index, 0, 0)
        assert statement.may_be_true_of(scene)
        for i, name, j in statement.relations:
            assert scene.clearly_holds(order[i], name, order[j])


def test_boxes_are_tight_around_what_is_visible():
    for index in range(60):
        scene, _, _order, rng = scenes._plan("test", 300 + index, 0, 0)
        _, visible = drawing.draw(scene, 64, rng)
        for cover in visible:
            y0, x0, y1, x1 = np.round(drawing.visible_box(cover) * 64).astype(int)
            seen = cover >= 0.5
            assert seen[y0:y1, x0:x1].sum() == seen.sum() > 40  # nothing outside, and enough left to be seen
            assert seen[y0].any() and seen[y1 - 1].any() and seen[:, x0].any() and seen[:, x1 - 1].any()


def test_unseen_pairs_are_disjoint_and_complete(train, tests):
    labels = lambda examples: {region["label"] for example in examples for region in example["regions"]}
    assert not labels(tests["test_unseen"]) & (labels(train) | labels(tests["test"]))
    assert {label.split()[0] for label in labels(train)} == set(world.COLOURS)
    assert {label.split()[1] for label in labels(train)} == set(world.SHAPES)


def test_negatives_are_of_five_kinds_false_and_distinct(tests):
    for split, examples in tests.items():
        counts = dict.fromkeys(KINDS, 0)
        for example in examples:
            texts = [(negative["kind"], negative["text"]) for negative in example["negatives"]]
            # Between things of one shape, exchanging colours and exchanging things is the same.
            assert example["captions"][0] not in dict(texts).values() and len(set(texts)) == len(texts)
            for negative in example["negatives"]:
                counts[negative["kind"]] += 1
        assert min(counts.values()) >= 60, (split, counts)


def test_negatives_cannot_be_told_by_an_odd_combination_of_words(tests):
    """In the split `test` no negative says a held-out pair, and nothing lies inside a thing without room."""
    unseen = [" ".join(pair) for pair in world.UNSEEN_PAIRS]
    texts = [negative["text"] for example in tests["test"] for negative in example["negatives"]]
    assert len(texts) > 500 and not [text for text in texts if any(pair in text for pair in unseen)]
    holders = [
        re.search(r"(?:inside|within) an? (?:\w+ )*?(circle|square|triangle|star|bar|cross|ring|moon)", text)
        for text in texts
    ]
    found = {holder.group(1) for holder in holders if holder}
    assert "circle" in found and not found & {"moon", "bar"}


def test_negatives_are_false_of_the_scene():
    """Reads the negatives' statements before they become text and holds them against the scene, generously."""
    rng = np.random.default_rng(0)
    checked = 0
    for index in range(120):
        scene, statement, *_ = scenes._plan("test", 300 + index, 0, 0)
        texts = {text for _, text in grammar.negatives(statement, scene, world.SEEN_PAIRS, rng)}
        for candidate in candidates(statement):
            if grammar.text(grammar.tree(candidate)) in texts:
                assert not candidate.may_be_true_of(scene)
                checked += 1
    assert checked > 200


def candidates(statement):
    makers = (
        grammar._swapped_attributes,
        grammar._swapped_objects,
        grammar._replaced_attributes,
        grammar._replaced_objects,
        grammar._replaced_relations,
    )
    return itertools.chain.from_iterable(make(statement) for make in makers)


def test_retrieval_candidates_can_be_told_apart(tests):
    for examples in tests.values():
        captions = [example["captions"][0] for example in examples[: scenes.DISTINCT]]
        assert len(set(captions)) == len(captions) == 256


def test_prepare_writes_a_data_set_with_its_classes(tmp_path):
    scenes.prepare(tmp_path / "scenes", train=8, test=4, test_unseen=4, image_size=32)
    source = records.read(tmp_path / "scenes", "train")
    assert len(source) == 8 and source[3]["id"] == "train-000003"
    assert Image.open(io.BytesIO(source[0]["image"])).size == (32, 32)
    assert len(records.metadata(tmp_path / "scenes")["classes"]) == 64
