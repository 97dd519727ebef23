import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from harmopower.data.inspecting import nesting, statistics
from tests.data.inspecting import common

SPANS = strategies.lists(strategies.tuples(strategies.integers(0, 12), strategies.integers(1, 6)), max_size=7)


@pytest.fixture(scope="module")
def tokenizer():
    return common.tokenizer()


def test_the_numbers_are_those_counted_by_hand(tokenizer):
    found = statistics.Statistics(tokenizer, context_length=5, image_size=100)
    good = common.example(
        phrases=common.tree(),
        regions=[
            common.region((0, 0, 0.5, 0.5), words="a dog", label="dog"),
            common.region((0, 0, 1, 1), text="some text"),
            common.region((0, 0, 0.1, 0.4), label="dog"),
            common.region((0, 0, 0.1, 0.1)),
        ],
    )
    bad = common.example("2", ["", "dog"], regions=[common.region((0.5, 0, 0.5, 1))], image=b"no image")
    assert found.add(good) == {"cut", "no span"}
    assert found.add(bad) == {"no span", "bad"}
    summary = found.summary()
    assert (summary["examples"], summary["captions"], summary["captions_cut"]) == (2, 3, 1)
    assert summary["bad_records"] == {"empty_caption": 1, "empty_box": 1, "image_broken": 1}
    assert summary["regions_with"] == {"none": 2, "a span": 1, "a text of its own": 1, "a label": 1}
    assert summary["region_labels"] == {"dog": 2}
    assert summary["phrase_labels"] == {"NP": 2, "S": 1, "PP": 1}
    numbers = summary["numbers"]
    assert numbers["depth of a caption's tree"]["most"] == 3  # S, PP, NP
    assert numbers["phrases an example"] == {"count": 2, "mean": 2, "least": 0, "median": 0, "95 %": 4, "most": 4}
    side = numbers["side of a region, pixels (root of its area)"]
    assert (side["least"], side["median"], side["most"]) == (0, 20, 100)  # of 0, 10, 20, 50 and 100
    assert numbers["shorter side of an image, pixels"]["most"] == 48


def test_tokens_are_counted_as_training_cuts_them(tokenizer):
    for words in range(1, 12):
        caption = " ".join(["sofa"] * words)
        tokens = tokenizer.count(caption)
        ids, _ = tokenizer.encode(caption, 64)
        assert tokens == ids.argmax() + 1
        for length, is_cut in ((tokens, False), (tokens - 1, True)):
            found = statistics.Statistics(tokenizer, length, 100)
            assert ("cut" in found.add(common.example(captions=[caption]))) == is_cut
            _, offsets = tokenizer.encode(caption, length)
            assert (offsets.max() < len(caption)) == is_cut  # what the pipeline goes by


@hypothesis.given(strategies.lists(strategies.integers(0, 50), min_size=1, max_size=60))
def test_levels_are_those_of_the_sorted_values(values):
    summary = statistics.Histogram(values).summary()
    levels = {"least": 0.0, "median": 0.5, "95 %": 0.95, "most": 1.0}
    for name, level in levels.items():
        assert summary[name] == np.quantile(values, level, method="inverted_cdf")
    assert summary["count"] == len(values) and summary["mean"] == pytest.approx(np.mean(values), abs=1e-3)


@hypothesis.given(SPANS)
def test_depth_is_the_longest_chain_of_spans(spans):
    spans = sorted({(start, start + length) for start, length in spans})

    def longest(span):
        inside = [other for other in spans if other != span and span[0] <= other[0] and other[1] <= span[1]]
        return 1 + max(map(longest, inside), default=0)

    assert nesting.depth(spans) == max(map(longest, spans), default=0)


def test_the_table_has_a_row_for_every_number(tokenizer):
    found = statistics.Statistics(tokenizer, 77, 224)
    found.add(common.example(phrases=common.tree(), regions=[common.region(words="a dog")]))
    rows = list(statistics.rows(found.summary()))
    assert len(rows) == len(found.histograms) and all(len(row) == 6 for row in rows)
    assert dict(statistics.counts(found.summary()))["captions cut at 77 tokens"] == "0 (0.0%)"
