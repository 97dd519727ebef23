"""Captions cleaned as OpenCLIP cleans them, and where each cleaned character stood in the caption as it was written.

The cleaned text is that of `open_clip.tokenizer` (SimpleTokenizer's `lower`, HFTokenizer's `whitespace`): ftfy mends
broken encodings and straightens quotes, HTML entities are decoded twice, runs of white space become one space.
Phrases and regions name characters of the caption as it was written, so tokens need offsets into that one:

    written            cleaned     each cleaned character comes from
    salt &amp; oil     salt & oil  the & from all five characters of "&amp;"
    &amp;amp;          &           the & from all nine
    ﬁne (ligature)     fine        both f and i from the one ligature
    it’s               it's        the ' from the ’
    cafÃ© (mojibake)   café        the é from both characters of "Ã©"
    a  dog (2 spaces)  a dog       the space from both

So a span that touches an entity or a ligature anywhere holds the tokens of all that it stands for. What vanishes
(control characters, white space at the ends) belongs to no token.
"""

from collections.abc import Iterator
import functools
import html
import itertools
import re

import ftfy

Place = tuple[str, int, int]  # a cleaned character; the first and last-plus-one written character that it comes from

_PLAIN = re.compile(r"[ -%'-~]*")  # printable ASCII without &, of which ftfy and HTML change nothing
_WORDS = re.compile(r"\s+|\S+", re.ASCII)
# An entity in the widest sense, one that is escaped several times included; or what lies between entities.
_ENTITIES = re.compile(r"&(?:amp;|#0*38;|#x0*26;)*(?:#[0-9]+;?|#x[0-9a-f]+;?|[0-9a-z]{1,32};?)?|[^&]+", re.IGNORECASE)
# A character with the marks that are put on it, as far as the standard library can tell; plain runs in one piece.
_CHARACTERS = re.compile(r"[ -~]+(?![^\x00-\x7f])|.[\u0300-\u036f\u3099\u309a]*", re.DOTALL)


def clean(text: str) -> str:
    """The cleaned text; `lower()` of it is what OpenCLIP's own tokenizer sees."""
    return " ".join(_mended(text).split())


def align(text: str, lower: bool) -> tuple[str, list[tuple[int, int]] | None]:
    """Cleans a text and says where each character comes from.

    Args:
      text: as it was written.
      lower: whether to lower-case it too, as Python does (which knows the final sigma).

    Returns:
      The cleaned text, and for each of its characters the first and last-plus-one character of `text` that it comes
      from, neither ever falling; None where every character stayed at its place.
    """
    mended = _mended(text)
    cleaned = " ".join(mended.split())
    lowered = cleaned.lower() if lower else cleaned
    if cleaned == text and len(lowered) == len(text):
        return lowered, None
    places = list(_collapsed(_aligned(text, mended, 0, (_WORDS, _ENTITIES, _CHARACTERS))))
    if lower:  # one character may become two, such as a capital I with a dot; only its length depends on it alone
        places = [place for place in places for _ in place[0].lower()]
    return lowered, [(start, end) for _, start, end in places]


def _mended(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _mended_anew(text)


@functools.lru_cache(maxsize=1024)  # for the pieces that recur: quotes, entities, accented letters
def _mended_anew(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _aligned(text: str, mended: str, first: int, pieces: tuple[re.Pattern, ...]) -> Iterator[Place]:
    """Places of the characters of `mended`, which is `text` mended; `text` begins at character `first`.

    A text is what its words are, a word what its entities and the rest are, and so on, unless mending proves otherwise
    (broken encodings can reach over several): then what differs comes from all that differs.
    """
    if mended == text:
        return ((character, first + index, first + index + 1) for index, character in enumerate(text))
    parts = pieces[0].findall(text) if pieces else []
    mends = [_mended(part) for part in parts]
    if not parts or "".join(mends) != mended:
        return _differing(text, mended, first)
    starts = itertools.accumulate(map(len, parts), initial=first)
    return itertools.chain.from_iterable(
        _aligned(part, mend, start, pieces[1:]) for part, mend, start in zip(parts, mends, starts)
    )


def _differing(text: str, mended: str, first: int) -> Iterator[Place]:
    """Equal beginnings and ends come each from their like, and the middle from the whole middle."""
    shorter = min(len(text) - 1, len(mended))  # the middle holds at least one written character
    head = next((index for index in range(shorter) if text[index] != mended[index]), shorter)
    head -= text[:head].endswith("&")  # it is the beginning of an entity
    tail = next((index for index in range(shorter - head) if text[-1 - index] != mended[-1 - index]), shorter - head)
    middle = (first + head, first + len(text) - tail)
    for index, character in enumerate(mended):
        behind = index - len(mended)  # negative, from the end
        if index < head:
            yield character, first + index, first + index + 1
        elif behind >= -tail:
            yield character, first + len(text) + behind, first + len(text) + behind + 1
        else:
            yield character, *middle


def _collapsed(places: Iterator[Place]) -> Iterator[Place]:
    """Runs of white space become one space, from all of them; none at the ends. As `" ".join(text.split())`."""
    space = None
    anything = False
    for character, start, end in places:
        if character.isspace():
            space = (" ", space[1] if space else start, end)
            continue
        if space and anything:
            yield space
        space, anything = None, True
        yield character, start, end
