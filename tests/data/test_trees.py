"""Trees: known brackets give known spans; every kind of broken tree is refused at its place."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from harmopower.data.trees import TreeError, spans_from_penn


def _texts(tree, caption):
    return [(caption[start:end], label) for start, end, label in spans_from_penn(tree, caption)]


def test_nested_constituents_outer_first():
    tree = "(NP (NP (DT a) (JJ red) (NN circle)) (PP (IN above) (NP (DT a) (NN square))))"
    assert spans_from_penn(tree, "a red circle above a square") == [
        (0, 27, "NP"),
        (0, 12, "NP"),
        (13, 27, "PP"),
        (19, 27, "NP"),
    ]


def test_unary_chain_keeps_the_outermost_and_one_word_phrases_stay():
    assert _texts("(ROOT (S (NP (NNS dogs)) (VP (VBP sleep))))", "dogs sleep") == [
        ("dogs sleep", "ROOT"),
        ("dogs", "NP"),
        ("sleep", "VP"),
    ]


def test_outer_bracket_without_label():
    assert _texts("( (S (NP (NN rain)) (VP (VBZ falls))))\n", "rain falls")[0] == ("rain falls", "S")


def test_words_without_tags():
    assert _texts("(NP a (ADJP very red) circle)", "a very red circle") == [
        ("a very red circle", "NP"),
        ("very red", "ADJP"),
    ]


def test_root_over_one_word():
    assert _texts("(NN dog)", "dog") == [("dog", "NN")]


def test_traces_cover_nothing():
    tree = "(S (NP (-NONE- *)) (VP (VB stop) (NP (-NONE- *T*-1)) (ADVP (RB now))))"
    assert _texts(tree, "stop now") == [("stop now", "S"), ("now", "ADVP")]


@pytest.mark.parametrize(
    "words, caption",
    [
        ("(-LRB- -LRB-) (NN dog) (-RRB- -RRB-)", "(dog)"),
        ("(X -LSB-) (NN dog) (X -RSB-)", "[dog]"),
        ("(X -LCB-) (NN dog) (X -RCB-)", "{ dog }"),
        ("(`` ``) (NN dog) ('' '')", '"dog"'),
        ("(`` ``) (NN dog) ('' '')", "“dog”"),
        ("(`` ``) (NN dog) ('' '')", "``dog''"),
        ("(NN dog) (POS 's) (NN tail)", "dog’s tail"),
        (r"(CD 1\/2) (NN dog)", "1/2 dog"),
        (r"(SYM \*) (NN dog)", "* dog"),
        ("(MD ca) (RB n't) (VB sleep)", "can't sleep"),
        ("(NN dog) (: ...) (: --) (NN cat)", "dog… – cat"),
        ("(NN dog) (: ...) (: --) (NN cat)", "dog ... -- cat"),
        ("(NN café) (NN 犬)", "  café \n 犬 "),
        ("(NN -LRB-) (NN dog)", "-LRB- dog"),
    ],
)
def test_escapes_quotes_and_white_space(words, caption):
    assert spans_from_penn(f"(NP {words})", caption) == [
        (len(caption) - len(caption.lstrip()), len(caption.rstrip()), "NP")
    ]


@pytest.mark.parametrize(
    "tree, caption, position, words",
    [
        ("", "a", 0, "no tree"),
        ("a dog", "a dog", 0, "outside"),
        ("(NP (DT a) (NN dog)", "a dog", 0, "never closed"),
        ("(NP (DT a) (NN dog)))", "a dog", 20, "outside"),
        ("(NP (DT a)) (NP (NN dog))", "a dog", 12, "outside"),
        ("(NP (DT a) (NN))", "a", 11, "'NN' is empty"),
        ("(NP ((DT a)) (NN dog))", "a dog", 4, "no label"),
        ("()", "a", 0, "empty"),
        ("(S (NP (-NONE- *)))", "", 0, "no words"),
        ("(NP (DT a) (NN cat))", "a dog", 2, "'cat' (character 15 of the tree) where the caption has 'dog'"),
        ("(NP (DT a) (NN dog))", "a dog sleeps", 6, "goes on with 'sleeps'"),
        ("(NP (DT a) (NN dog))", "a", 1, "where the caption has ''"),
    ],
)
def test_errors_tell_the_position(tree, caption, position, words):
    with pytest.raises(TreeError) as error:
        spans_from_penn(tree, caption)
    assert error.value.position == position
    assert words in str(error.value) and f"character {position} of the" in str(error.value)


_WORDS = st.text(st.characters(blacklist_categories=("Z", "C"), blacklist_characters="()\\`'"), min_size=1).filter(
    lambda word: not word.isspace() and "--" not in word and ".." not in word
)
_TREES = st.recursive(
    _WORDS.map(lambda word: ("NN", word)), lambda tree: st.lists(tree, min_size=2, max_size=3), max_leaves=12
)


def _render(tree):
    """Returns the bracket, its words, and the word ranges of its constituents, outer first."""
    if isinstance(tree, tuple):
        return f"(NN {tree[1]})", [tree[1]], []
    brackets, words, ranges = [], [], []
    for child in tree:
        bracket, more, inner = _render(child)
        ranges += [(first + len(words), last + len(words)) for first, last in inner]
        brackets.append(bracket)
        words += more
    return f"(X {' '.join(brackets)})", words, [(0, len(words))] + ranges


@settings(deadline=None, max_examples=100)
@given(_TREES.filter(lambda tree: isinstance(tree, list)), st.sampled_from([" ", "  ", "\n\t"]))
def test_any_tree_round_trips(tree, space):
    bracket, words, ranges = _render(tree)
    caption = space.join(words)
    spans = spans_from_penn(bracket, caption)
    assert [caption[start:end].split(space) for start, end, _ in spans] == [words[first:last] for first, last in ranges]


@settings(deadline=None, max_examples=200)
@given(st.text("()NP ab", max_size=20), st.text("ab ", max_size=8))
def test_garbage_raises_nothing_but_tree_errors(tree, caption):
    try:
        spans = spans_from_penn(tree, caption)
    except TreeError as error:
        assert 0 <= error.position <= max(len(tree), len(caption))
    else:
        assert spans[0][:2] == (len(caption) - len(caption.lstrip()), len(caption.rstrip()))
