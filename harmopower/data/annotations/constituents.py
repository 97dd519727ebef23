"""Constituents of a sentence from its dependency parse: which spans of words are S, NP, PP and VP.

PowerCLIP's data were made with spaCy; its rule is not published, this one is ours (METHOD section 3; ten examples in
docs/annotations.md). Works on any sequence of tokens like spaCy's: `i`, `dep_`, `pos_`, `head`, `subtree`, `lefts`.
"""

from collections.abc import Iterator

SUBJECTS = ("nsubj", "nsubjpass", "csubj", "csubjpass", "expl")
AUXILIARIES = ("aux", "auxpass")
_PREPOSITIONS = ("prep", "agent", "dative")  # `agent` is the by of a passive, `dative` the to of giving

Span = tuple[int, int, str]  # first word, the one behind the last, label


def constituents(document) -> list[Span]:
    """The constituents of a parsed text, outer before inner, each run of words once.

    Args:
      document: a spaCy `Doc` with parse, parts of speech and noun chunks.

    Returns:
      Spans of words, without punctuation at their ends; S keeps its own.
    """
    found: dict[tuple[int, int], str] = {}
    for start, end, label in _candidates(document):
        if label != "S":
            start, end = _without_punctuation(document, start, end)
        if start < end:
            found.setdefault((start, end), label)
    return [(*span, label) for span, label in sorted(found.items(), key=lambda item: (item[0][0], -item[0][1]))]


def _candidates(document) -> Iterator[Span]:
    if not any(_is_verb(token) for token in document):
        yield 0, len(document), "S"
    for sentence in document.sents:
        yield from _whole(sentence.root.subtree, "S")
    for chunk in document.noun_chunks:
        yield from _whole(chunk.root.subtree, "NP")
        yield chunk.start, chunk.end, "NP"
    for token in document:
        if token.dep_ in _PREPOSITIONS and token.pos_ in ("ADP", "SCONJ"):
            yield from _whole(token.subtree, "PP")
        if _is_verb(token):
            yield from _verb_phrases(token)


def _is_verb(token) -> bool:
    """A verb, or a form of "be" and the like that is no auxiliary of another one."""
    return token.pos_ == "VERB" or (token.pos_ == "AUX" and token.dep_ not in AUXILIARIES)


def _verb_phrases(verb) -> Iterator[Span]:
    """Behind the subject to the end of the subtree; and again from behind each auxiliary, as treebanks nest them."""
    words = sorted(token.i for token in verb.subtree)
    before = [child for child in verb.lefts if child.dep_ in SUBJECTS]
    start = max((max(token.i for token in child.subtree) + 1 for child in before), default=words[0])
    inner = [child.i + 1 for child in verb.lefts if child.dep_ in AUXILIARIES and child.i >= start]
    for first in (start, *inner):
        yield from _run([word for word in words if word >= first], "VP")


def _whole(tokens, label: str) -> Iterator[Span]:
    yield from _run(sorted(token.i for token in tokens), label)


def _run(words: list[int], label: str) -> Iterator[Span]:
    """The span of words that are next to each other; nothing for others (crossing branches)."""
    if words and words[-1] - words[0] + 1 == len(words):
        yield words[0], words[-1] + 1, label


def _without_punctuation(document, start: int, end: int) -> tuple[int, int]:
    while start < end and document[start].is_punct:
        start += 1
    while start < end and document[end - 1].is_punct:
        end -= 1
    return start, end
