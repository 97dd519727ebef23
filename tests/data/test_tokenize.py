"""Tokenizer: the layout of ids, offsets in characters, spans to token masks."""

import json
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers

from harmopower.data.tokenize import Tokenizer, TokenizerError, phrase_masks, span_mask

CAPTIONS = ["a red circle above a blue square", "the café near a small striped green triangle"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 400)


def _words(tokenizer, text, length=32):
    """The text under each token that has any, from the offsets."""
    ids, offsets = tokenizer.encode(text, length)
    return ids, offsets, [text[start:end] for start, end in offsets if start < end]


def test_layout(tokenizer):
    ids, offsets, words = _words(tokenizer, "A red circle", 8)
    assert words == ["A", "red", "circle"]
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.pad_id) == (
        tokenizer.vocab_size - 2,
        tokenizer.vocab_size - 1,
        0,
    )
    assert ids.dtype == offsets.dtype == np.int32
    assert ids[0] == tokenizer.sot_id and ids[4] == tokenizer.eot_id and np.argmax(ids) == 4
    assert (ids[5:] == 0).all() and (ids[1:4] > 0).all()
    assert offsets.tolist() == [[0, 0], [0, 1], [2, 5], [6, 12], [12, 12], [0, 0], [0, 0], [0, 0]]


def test_case_and_place_do_not_change_tokens(tokenizer):
    alone, _ = tokenizer.encode("Red Circle", 8)
    inside, _ = tokenizer.encode("a  red circle", 8)
    assert [i for i in alone if i in inside] == list(alone)


def test_truncation_keeps_the_end(tokenizer):
    ids, offsets = tokenizer.encode("a red circle above a blue square", 5)
    assert ids[-1] == tokenizer.eot_id and np.argmax(ids) == 4
    assert offsets[-1].tolist() == [13, 13]


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_text(tokenizer, text):
    ids, _ = tokenizer.encode(text, 4)
    assert tokenizer.eot_id in ids and tokenizer.encode("", 2)[0].tolist() == [tokenizer.sot_id, tokenizer.eot_id]


def test_special_names_in_a_caption_are_text(tokenizer):
    ids, _ = tokenizer.encode("red <|endoftext|> <|pad|>", 64)
    assert (ids == tokenizer.eot_id).sum() == 1
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert np.array_equal(copy.encode("red <|endoftext|> <|pad|>", 64)[0], ids)


def test_batch_equals_single(tokenizer):
    ids, offsets = tokenizer.encode_batch(CAPTIONS[:2], 16)
    for row in range(2):
        assert np.array_equal(ids[row], tokenizer.encode(CAPTIONS[row], 16)[0])
        assert np.array_equal(offsets[row], tokenizer.encode(CAPTIONS[row], 16)[1])
    assert tokenizer.encode_batch([], 16)[0].shape == (0, 16)


def test_training_refuses_a_vocabulary_below_the_bytes():
    with pytest.raises(TokenizerError, match="vocab_size 258 is below 259"):
        Tokenizer.train(CAPTIONS, 258)


def test_file_round_trip(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for spec, directory in [("", tmp_path), (str(tmp_path), "/absent"), (str(tmp_path / "tokenizer.json"), "/absent")]:
        loaded = Tokenizer.load(spec, directory)
        assert loaded.vocab_size == tokenizer.vocab_size
        assert np.array_equal(loaded.encode(CAPTIONS[1], 20)[0], tokenizer.encode(CAPTIONS[1], 20)[0])


def test_hugging_face_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    loaded = Tokenizer.load(f"hf:{tmp_path}", "")
    assert loaded.eot_id == tokenizer.eot_id
    assert np.array_equal(loaded.encode(CAPTIONS[0], 20)[0], tokenizer.encode(CAPTIONS[0], 20)[0])


def test_a_tokenizer_without_start_and_end_gets_them():
    words = {word: index for index, word in enumerate(["[UNK]", "a", "red", "circle"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    wrapped = Tokenizer(backend)
    assert wrapped.vocab_size == 6
    assert wrapped.encode("a red circle", 6)[0].tolist() == [4, 1, 2, 3, 5, 0]
    assert pickle.loads(pickle.dumps(wrapped)).vocab_size == 6


def test_load_errors_name_path_and_key(tmp_path):
    with pytest.raises(TokenizerError, match="config.data.tokenizer.*tools.prepare"):
        Tokenizer.load("", tmp_path)
    with pytest.raises(TokenizerError, match="/absent.*config.data.tokenizer"):
        Tokenizer.load("/absent", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is not a tokenizer.json"):
        Tokenizer.load("", tmp_path)


def _covered(text, offsets, mask):
    return [text[start:end] for start, end in offsets[mask]]


def test_span_mask_takes_the_tokens_of_the_span(tokenizer):
    text = "a red circle above a blue square"
    _, offsets = tokenizer.encode(text, 16)
    masks = span_mask(offsets, [(0, 12), (12, 18), (21, 32), (3, 4), (12, 13)])
    assert [_covered(text, offsets, mask) for mask in masks] == [
        ["a", "red", "circle"],
        ["above"],
        ["blue", "square"],
        ["red"],
        [],
    ]


@pytest.mark.parametrize(
    "text, span",
    [
        ("the café near 犬と猫 now", (14, 17)),
        ("the café near", (4, 8)),
        ("İstanbul red", (0, 8)),  # lower case is one character longer
        ("a 👩‍🚀 red circle", (2, 5)),
        ("ﬁne red", (4, 7)),
    ],
)
def test_span_mask_on_other_scripts(tokenizer, text, span):
    _, offsets = tokenizer.encode(text, 64)
    mask = span_mask(offsets, [span])[0]
    characters = {i for start, end in offsets[mask] for i in range(start, end)}
    assert characters == set(range(*span))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=20), st.data())
def test_span_mask_covers_exactly_the_characters(tokenizer, text, data):
    plain = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.__reduce__()[1][0]), clean_text=False)  # nothing vanishes
    _, offsets = plain.encode(text, 128)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    mask = span_mask(offsets, [(start, end)])[0]
    inside = np.maximum(offsets[:, 0], start) < np.minimum(offsets[:, 1], end)
    assert np.array_equal(mask, inside)
    covered = {i for first, last in offsets[mask] for i in range(first, last)}
    assert all(text[i].isspace() or i in covered for i in range(start, end))


def test_a_span_that_the_context_cuts_is_dropped(tokenizer):
    text = "a red circle above a blue square"
    _, offsets = tokenizer.encode(text, 7)  # keeps "a red circle above a"
    masks = span_mask(offsets, [(0, 32), (0, 12), (13, 20), (19, 32), (26, 32)])
    assert masks.any(axis=1).tolist() == [False, True, True, False, False]


def test_a_cut_inside_one_character_drops_it(tokenizer):
    _, offsets = tokenizer.encode("red 犬", 5)  # the character has more bytes than there is place
    assert not span_mask(offsets, [(4, 5)]).any()


def _choose(tokenizer, text, phrases, linked, count, length=16):
    _, offsets = tokenizer.encode(text, length)
    masks, rows = phrase_masks(offsets, phrases, linked, count)
    assert masks.shape == (count, length) and masks.dtype == bool
    return [" ".join(_covered(text, offsets, mask)) for mask in masks if mask.any()], rows.tolist()


TEXT = "a red circle above a blue square"
TREE = [(19, 32), (13, 32), (0, 12), (0, 32), (2, 5), (0, 12)]


def test_phrases_root_first_then_longest(tokenizer):
    chosen, rows = _choose(tokenizer, TEXT, TREE, [], 8)
    assert chosen == [TEXT, "above a blue square", "a blue square", "a red circle"]
    assert rows == []


def test_at_most_k_phrases(tokenizer):
    assert _choose(tokenizer, TEXT, TREE, [], 2)[0] == [TEXT, "above a blue square"]


def test_linked_spans_come_after_the_root(tokenizer):
    chosen, rows = _choose(tokenizer, TEXT, TREE, [(26, 32), (0, 12), (26, 32), (0, 32)], 4)
    assert chosen == [TEXT, "square", "a red circle", "above a blue square"]
    assert rows == [1, 2, 1, 0]


def test_a_linked_span_without_place_or_tokens_has_no_row(tokenizer):
    assert _choose(tokenizer, TEXT, TREE, [(0, 12), (12, 13), (26, 32)], 2)[1] == [1, -1, -1]


def test_no_tree_is_the_whole_caption(tokenizer):
    assert _choose(tokenizer, TEXT, [], [(0, 12)], 4) == ([TEXT, "a red circle"], [1])
    assert _choose(tokenizer, TEXT, [], [], 4, length=5)[0] == ["a red circle"]
    assert _choose(tokenizer, "red", [(0, 3)], [], 4)[0] == ["red"]
    assert _choose(tokenizer, "", [], [], 4)[0] == []


def test_cut_phrases_are_dropped(tokenizer):
    chosen, rows = _choose(tokenizer, TEXT, TREE, [(19, 32)], 4, length=7)
    assert chosen == ["a red circle"] and rows == [-1]
