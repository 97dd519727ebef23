import numpy as np
import pytest

from harmopower.data import pipeline
from harmopower.data.inspecting import batches, cards, choosing, statistics
from tests.data.inspecting import common


@pytest.fixture(scope="module")
def tokenizer():
    return common.tokenizer()


def test_a_box_and_its_words_have_one_key_and_one_colour(tokenizer):
    regions = [
        common.region(words="a red sofa"),
        common.region(words="a dog"),
        common.region((0, 0, 1, 1), label="lamp"),
    ]
    card = cards.of_example(common.example(phrases=common.tree(), regions=regions), tokenizer, 77)
    sofa, dog, lamp = card.boxes
    coloured = {box.colour: [p.text for p in card.texts[0].pieces if p.colour == box.colour] for box in card.boxes}
    assert coloured == {sofa.colour: ["a", "red", "sofa"], dog.colour: ["a", "dog"], lamp.colour: []}
    assert all(sofa.key in p.keys for p in card.texts[0].pieces if p.colour == sofa.colour)
    assert (lamp.named, lamp.name) == (False, "[lamp]") and "no span" in card.kinds
    assert (sofa.x, sofa.y, sofa.width, sofa.height) == pytest.approx((0.2, 0.1, 0.4, 0.4))


def test_the_tree_is_drawn_with_its_root_on_top(tokenizer):
    card = cards.of_example(common.example(phrases=common.tree()), tokenizer, 77)
    (text,) = card.texts
    drawn = [[(cell.label, cell.pieces) for cell in row] for row in text.rows]
    words = [piece.text for piece in text.pieces]
    assert words == ["a", "dog", "on", "a", "red", "sofa", ",", "asleep"]  # the comma is in no span but the root
    assert drawn == [[("S", 8)], [("NP", 2), ("PP", 4)], [("", 3), ("NP", 3)]]


def test_crossing_spans_have_lines_of_their_own(tokenizer):
    phrases = [common.span(common.CAPTION, "a dog on"), common.span(common.CAPTION, "on a red")]
    (text,) = cards.of_example(common.example(phrases=phrases), tokenizer, 77).texts
    assert [[cell.pieces for cell in row] for row in text.rows] == [[3], [2, 3]]


def test_what_the_context_length_cuts_is_marked(tokenizer):
    card = cards.of_example(common.example(), tokenizer, tokenizer.count("a dog on"))
    assert [piece.text for piece in card.texts[0].pieces if not piece.cut] == ["a", "dog", "on"]
    assert "cut" in card.kinds


def test_a_bad_record_is_shown_with_what_is_wrong(tokenizer):
    regions = [common.region((0.5, 0.5, 0.2, np.nan)), {**common.region(words="a dog"), "end": 999}]
    card = cards.of_example(common.example(regions=regions, image=b"junk"), tokenizer, 77)
    assert card.image is None and "bad" in card.kinds
    assert len(card.problems) == 3 and any("cannot be decoded" in problem for problem in card.problems)


def test_a_score_of_a_detector_is_shown(tokenizer):
    regions = [{**common.region(label="dog"), "score": 0.8765}]
    assert "0.876" in cards.of_example(common.example(regions=regions), tokenizer, 77).boxes[0].name


def test_the_masks_of_a_batch_are_shown_as_they_are(tokenizer):
    options = pipeline.Options(image_size=32, context_length=32, max_phrases=8, max_boxes=3, alone_text=True)
    examples = (
        common.example(
            phrases=common.tree(), regions=[common.region(words="a dog"), common.region((0, 0, 1, 1), text="sofa")]
        ),
        common.example("bad", [""]),
    )
    made = pipeline.Pipeline(examples, tokenizer, seed=0, batch_size=2, **{**vars(options), "alone_text": True})
    batch, ids = made.batch(0), made.ids(0)
    shown = {card.name.split(": ")[1]: card for card in batches.of_batch(batch, ids, tokenizer)}
    assert shown["bad"].kinds == {"bad"}
    card, row = shown["000001"], ids.index("000001")
    (text,) = card.texts
    tokens = batch["tokens"][row]
    assert [p.text for p in text.pieces] == [p.strip() for p in tokenizer.pieces(tokens[: tokens.argmax() + 1])]
    assert len(text.rows) == batch["phrases"][row].any(axis=1).sum()
    for cells, mask in zip(text.rows, batch["phrases"][row]):
        drawn = [bool(cell.key) for cell in cells for _ in range(cell.pieces)]
        assert drawn == mask[: len(drawn)].tolist() and not mask[len(drawn) :].any()
    assert {box.named for box in card.boxes} == {True, False}
    assert any("text alone" in box.name and "sofa" in box.name.replace("|", "") for box in card.boxes)
    named = next(box for box in card.boxes if box.named)
    assert "".join(p.text for p in text.pieces if named.key in p.keys) == "adog"
    assert card.image.shape == (32, 32, 3) and (card.image == batch["image"][row]).all()


def test_the_choice_has_some_of_every_kind_and_is_a_function_of_the_seed():
    def choose(seed):
        chosen = choosing.Chosen(20, seed)
        for index in range(1000):
            chosen.show(index, {"bad"} if index in (7, 500) else set(), boxes=int(index == 333) * 9)
        return chosen.indices()

    found = choose(0)
    assert {7, 500, 333} <= set(found) and len(found) == 20 and found == sorted(found)
    assert found == choose(0) != choose(1)


def test_a_box_that_a_caption_names_is_shown_once(tokenizer):
    regions = [common.region(label="dog"), common.region(words="a dog", label="dog"), common.region((0, 0, 1, 1))]
    card = cards.of_example(common.example(regions=regions), tokenizer, 77)
    assert [box.named for box in card.boxes] == [True, False]
    found = statistics.Statistics(tokenizer, 77, 224)
    found.add(common.example(regions=regions))
    assert found.summary()["regions_with"] == {"a span": 1, "none": 1}
