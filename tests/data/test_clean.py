"""Cleaning: OpenCLIP's text, and offsets that point into the caption as it was written."""

import html
import itertools

import ftfy
from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from harmopower.data import clean

# What captions of the web hold: entities, also escaped twice, ligatures, quotes, marks, broken encodings, wide letters.
PIECES = """a dog|It's|I’ll|“so”| |  |\t|\n|&amp;|&amp;amp;|&amp;lt;|&quot;|&#39;|&#x2019;|&copy2020|&ampx|&notit;|AT&T
|&|&&|;|&EACUTE;|<b>|ﬁ|ﬂ|ﬆ|cafe\u0301|naïve|cafÃ©|â€œhiâ€\x9d|Ã |ＷＩＤＥ|ｶﾞ|…|—|İ|ΣΑΣ|ß|\u200b|\ufeff|👩‍🚀|한국
|日本|\u0958|½|x²"""
PIECES = PIECES.split("|")
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def _open_clips(text: str) -> str:
    """What open_clip.tokenizer does before it looks for words; test_clip_vocabulary compares with it."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).strip().split()).strip()


def _from(text: str, lower=False) -> list[tuple[str, str]]:
    """Each cleaned character beside what was written for it."""
    cleaned, places = clean.align(text, lower)
    return [(character, text[start:end]) for character, (start, end) in zip(cleaned, places, strict=True)]


@pytest.mark.parametrize(
    "text, cleaned, changed",
    [
        ("salt &amp; oil", "salt & oil", [("&", "&amp;")]),
        ("&amp;amp; co", "& co", [("&", "&amp;amp;")]),
        ("a&amp;lt;b", "a<b", [("<", "&amp;lt;")]),
        ("&ampx &copy2020", "&x ©2020", [("&", "&amp"), ("©", "&copy")]),
        ("AT&T &#38; &#x26;me", "AT&T & &me", [("&", "&#38;"), ("&", "&#x26;")]),
        ("a ﬁne ﬂat", "a fine flat", [("f", "ﬁ"), ("i", "ﬁ"), ("f", "ﬂ"), ("l", "ﬂ")]),
        ("it’s “so”", 'it\'s "so"', [("'", "’"), ('"', "“"), ('"', "”")]),
        ("cafe\u0301s", "cafés", [("é", "e\u0301")]),
        ("un cafÃ©&amp;thé", "un café&thé", [("é", "Ã©"), ("&", "&amp;")]),
        ("a  dog", "a dog", [(" ", "  ")]),
        ("a&nbsp;\tdog", "a dog", [(" ", "&nbsp;\t")]),
        ("ｶﾞ", "ガ", [("ガ", "ｶﾞ")]),
    ],
)
def test_where_cleaned_characters_come_from(text, cleaned, changed):
    found = _from(text)
    assert "".join(character for character, _ in found) == cleaned == _open_clips(text)
    assert [pair for pair in found if pair[0] != pair[1]] == changed


def test_lower_case_may_be_longer():
    assert _from("  İX", lower=True) == [("i", "İ"), ("\u0307", "İ"), ("x", "X")]
    assert clean.align("ΟΔΟΣ", True) == ("οδος", None)  # the final sigma, as Python lower-cases it


def test_plain_text_stays_as_it_is():
    text = 'a red circle above a blue square, 3 of 4; "left" of it\'s star <here> 100%'
    assert clean.align(text, False) == (text, None) and clean.clean(text) == text
    assert clean.align("", True) == ("", None)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_cleaned_is_what_open_clip_sees(text):
    assert clean.clean(text) == _open_clips(text)
    assert clean.align(text, False)[0] == _open_clips(text)
    assert clean.align(text, True)[0] == _open_clips(text).lower()


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans())
def test_offsets_lie_inside_and_never_fall(text, lower):
    cleaned, places = clean.align(text, lower)
    places = [(index, index + 1) for index in range(len(text))] if places is None else places
    assert len(places) == len(cleaned)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(a <= c and b <= d for (a, b), (c, d) in itertools.pairwise(places))


VISIBLE = [piece for piece in PIECES if piece not in ("\u200b", "\ufeff", "â€œhiâ€\x9d") and not piece.isspace()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(VISIBLE), min_size=1, max_size=12).map(" ".join))
def test_everything_visible_is_covered(text):
    _, places = clean.align(text, True)
    places = [(index, index + 1) for index in range(len(text))] if places is None else places
    covered = {index for start, end in places for index in range(start, end)}
    assert all(character.isspace() or index in covered for index, character in enumerate(text))


def test_a_long_text_takes_a_pass_a_level(monkeypatch):
    """The number of characters that are mended grows with the text, not with its square."""
    mended = []
    original = clean._mended
    monkeypatch.setattr(clean, "_mended", lambda text: mended.append(len(text)) or original(text))
    costs = []
    for count in (200, 2000):
        mended.clear()
        clean.align("salt &amp; “oil” " * count, True)
        costs.append(sum(mended))
    assert costs[1] < 11 * costs[0]
