"""Scenes of emoji from packages in their published layout, in miniature: two vendors, and names that are no things."""

import io
import json

import numpy as np
from PIL import Image, ImageDraw
import pytest

from harmopower.data import records, trees
from harmopower.data.scenes import emoji, vendors
from tests.data.readers import common

# Names as Unicode writes them; all that is called so must become a class, in lower case.
THINGS = """HOT DOG|UMBRELLA|SOFT ICE CREAM|T-REX|CACTUS|BUS|WINE GLASS|ANT|UNICORN FACE|OWL|ROCKET|TENT|HARP|KEY|LEMON|
PEAR|SHIP|BELL|FROG FACE|CROWN|SLED|TULIP|CRAB|DRUM"""
THINGS = [name.strip() for name in THINGS.split("|")]
NO_THINGS = [
    ("FAMILY: MAN, BOY", "People & Body", "family"),
    ("GRAPES", "Food & Drink", "food-fruit"),  # plural
    ("FORK AND KNIFE", "Food & Drink", "dishware"),
    ("CLOCK FACE", "Travel & Places", "time"),
    ("SMALL AIRPLANE", "Travel & Places", "transport-air"),
    (None, "Objects", "tool"),
]


def package(folder, vendor: str, colour: tuple[int, int, int]):
    """A package with a coloured drawing for each name; one has no drawing, one only a flag that says it has none."""
    (folder / "img" / vendor / "64").mkdir(parents=True)
    rows = [(name, "Objects", "tool") for name in THINGS] + NO_THINGS + [("GHOST SHIP", "Objects", "tool")]
    rows += [("DRAWN BY NOBODY", "Objects", "tool")]
    listed = []
    for number, (name, category, subcategory) in enumerate(rows):
        row = {"name": name, "category": category, "subcategory": subcategory, "image": f"{number:04x}.png"}
        listed.append(row | {f"has_img_{vendor}": name != "DRAWN BY NOBODY"})
        if name != "GHOST SHIP":
            image = Image.new("RGBA", (64, 64))
            ImageDraw.Draw(image).polygon([(8, 4), (60 - number, 20), (50, 60), (4, 40)], (*colour, 255))
            image.save(folder / "img" / vendor / "64" / row["image"])
    (folder / "emoji.json").write_text(json.dumps(listed))
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node_modules")
    return package(folder / "a", "google", (250, 10, 10)), package(folder / "b", "twitter", (10, 10, 250))


@pytest.fixture(scope="module")
def output(packages, tmp_path_factory):
    output = tmp_path_factory.mktemp("emoji")
    sizes = ("--train", 60, "--test", 30, "--test-unseen", 30, "--workers", 1)
    assert common.run(output, "emoji", "--input", f"train={packages[0]}", f"test={packages[1]}", *sizes) == 0
    return output


def test_things_of_both_vendors_are_the_classes(output):
    found = records.metadata(output)
    assert found["classes"] == sorted(name.lower() for name in THINGS)
    assert found["vendors"] == {"train": "google", "test": "twitter", "test_unseen": "twitter"}
    counts = {split: len(common.examples(output, split)) for split in emoji.SPLITS}
    assert counts == {"train": 60, "test": 30, "test_unseen": 30}


def test_records_are_sound_and_say_what_they_show(output):
    things = set()
    for split in emoji.SPLITS:
        for example in common.examples(output, split):
            assert records.check(example) == []
            caption, labels = example["captions"][0], [region["label"] for region in example["regions"]]
            assert 2 <= len(labels) == len(set(labels)) <= 6
            things.add(len(labels))
            for region in example["regions"]:
                words = caption[region["start"] : region["end"]]
                assert region["label"] in words and words.split()[0] in ("a", "an")
            spans = {(phrase["start"], phrase["end"]) for phrase in example["phrases"]}
            assert (0, len(caption)) in spans
            assert {(region["start"], region["end"]) for region in example["regions"]} <= spans
            assert example["negatives"] == [] or split != "train"
            assert all(negative["text"] != caption for negative in example["negatives"])
    assert things == {2, 3, 4, 5, 6}


def test_articles_and_names_of_several_words():
    rng = np.random.default_rng(0)
    scene = emoji.world.Scene(tuple(emoji.Thing("", name, "", "") for name in ("owl", "unicorn face")))
    statement, _ = emoji.grammar.describe(scene, rng)
    tree = emoji.grammar.tree(statement)
    text = emoji.grammar.text(tree)
    assert "an owl" in text and "a unicorn face" in text
    spans = trees.spans_from_penn(emoji.grammar.penn(tree), text)
    assert "a unicorn face" in {text[start:end] for start, end, _ in spans}


def test_pairs_are_held_out_of_training_and_test(output):
    for split in emoji.SPLITS:
        for example in common.examples(output, split):
            names = [region["label"] for region in example["regions"]]
            held = sum(emoji.is_held_out(a, b) for i, a in enumerate(names) for b in names[:i])
            assert held == (split == "test_unseen")


def test_each_split_shows_its_vendor_in_the_boxes(output):
    """The middle of most boxes is the vendor's colour; the box lies where the drawing does."""
    for split, channel in (("train", 0), ("test", 2)):
        right = []
        for example in common.examples(output, split):
            image = np.asarray(Image.open(io.BytesIO(example["image"])), int)
            for y0, x0, y1, x1 in (region["box"] for region in example["regions"]):
                pixel = image[int(32 * (y0 + y1)), int(32 * (x0 + x1))]
                right.append(pixel[channel] > 100 + pixel[2 - channel])
        assert np.mean(right) > 0.9


def test_an_example_depends_on_seed_split_and_index_alone(packages, output):
    vendor = vendors.Vendor.at(packages[0])
    makes = emoji.Makes(dict.fromkeys(emoji.SPLITS, vendor), records.metadata(output)["classes"])
    example = emoji.make_example(makes, "train", 7)
    assert example["image"] == common.examples(output)[7]["image"]


def test_bad_packages_are_refused(packages, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    a, b = packages
    for inputs, words in (
        ([f"train={a}"], "give two packages"),
        ([f"train={a}", f"dev={b}"], "give two packages"),
        ([f"train={a}", f"test={tmp_path / 'empty'}"], "npm install"),
    ):
        assert common.run(tmp_path / "out", "emoji", "--input", *inputs) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
