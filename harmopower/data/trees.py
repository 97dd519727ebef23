"""Penn-bracket trees to labelled character spans of the caption they parse.

>>> spans_from_penn("(S (NP (DT a) (NN dog)) (VP (VBZ sleeps)))", "a dog sleeps")
[(0, 12, 'S'), (0, 5, 'NP'), (6, 12, 'VP')]
"""

import dataclasses
import re

Span = tuple[int, int, str]

_ESCAPES = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
    "...": "…",
    "--": "—",
}
# One character for one character, so that positions stay: parsers straighten quotes and dashes, captions keep them.
_STRAIGHT = str.maketrans("‘’‚`´“”„«»–", "'''''\"\"\"\"\"—")
_PARTS = re.compile(r"[()]|[^\s()]+")
_TRACE = "-NONE-"


class TreeError(ValueError):
    """A tree that cannot be read or does not belong to its caption; `position` counts characters from 0."""

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


@dataclasses.dataclass
class _Node:
    """A bracket: words `first` up to `last` of the tree; a tag is a bracket around one word."""

    label: str
    position: int
    first: int
    last: int = -1
    children: int = 0
    is_tag: bool = False


@dataclasses.dataclass
class _Word:
    text: str
    position: int


def spans_from_penn(tree: str, caption: str) -> list[Span]:
    """Reads a Penn-bracket tree and finds its constituents in the caption.

    Part-of-speech tags (a bracket around one word) are no constituents, except as the root. Of several constituents
    over the same words (unary chains) the outermost is kept. An outermost bracket without label, `( (S ...))`, and
    traces (`-NONE-`) are dropped. Which constituents count is METHOD section 3; these details are our choice.

    Args:
      tree: one tree; PTB escapes (`-LRB-`, two backticks, backslash before `/` and `*`) are understood.
      caption: the text that was parsed; white space between words and the shape of quotes and dashes may differ.

    Returns:
      `(start, end, label)` in characters of `caption`, outer before inner, left before right; the root is first.

    Raises:
      TreeError: brackets do not match, a bracket is empty or has no label, or the words are not the caption's; the
        text and `position` tell the character of the tree or of the caption.
    """
    nodes, words = _parse(tree)
    places = _align(words, caption)
    spans = {}
    for node in nodes:
        if node.first < node.last and not (node.is_tag and spans):
            spans.setdefault((places[node.first][0], places[node.last - 1][1]), node.label)
    if not spans:
        raise TreeError("the tree has no words (character 0 of the tree)", 0)
    return [(start, end, label) for (start, end), label in spans.items()]


def _parse(tree: str) -> tuple[list[_Node], list[_Word]]:
    """Returns the labelled brackets, outer before inner, and the words without traces."""
    nodes, words, open_nodes = [], [], []
    parts = [(match.group(), match.start()) for match in _PARTS.finditer(tree)]
    for index, (part, position) in enumerate(parts):
        if not open_nodes and (nodes or part != "("):
            raise _tree_error(f"{part!r} stands outside the tree", position)
        if part == "(":
            node = _open(parts, index, words, open_nodes)
            nodes.append(node)
            open_nodes.append(node)
        elif part == ")":
            _close(open_nodes.pop(), position, words)
        elif index and parts[index - 1][0] != "(":
            _add_word(part, position, open_nodes[-1], words)
    if open_nodes or not nodes:
        position = open_nodes[-1].position if open_nodes else len(tree)
        raise _tree_error("a bracket is never closed" if open_nodes else "there is no tree", position)
    return [node for node in nodes if node.label], words


def _open(parts, index: int, words: list[_Word], open_nodes: list[_Node]) -> _Node:
    position = parts[index][1]
    following = parts[index + 1][0] if index + 1 < len(parts) else ""
    label = "" if following in ("(", ")") else following
    if not label and open_nodes:
        raise _tree_error("a bracket has no label", position)
    if open_nodes:
        open_nodes[-1].children += 1
    return _Node(label, position, first=len(words))


def _close(node: _Node, position: int, words: list[_Word]) -> None:
    if not node.children:
        raise _tree_error(f"the bracket {node.label!r} is empty", node.position)
    node.last = len(words)
    node.is_tag = node.is_tag and node.children == 1


def _add_word(text: str, position: int, node: _Node, words: list[_Word]) -> None:
    node.children += 1
    node.is_tag = True  # unless more children follow, see _close
    if node.label != _TRACE:
        words.append(_Word(text, position))


def _tree_error(what: str, position: int) -> TreeError:
    return TreeError(f"{what} (character {position} of the tree)", position)


def _align(words: list[_Word], caption: str) -> list[tuple[int, int]]:
    """Finds each word in the caption, in order, with nothing but white space between them."""
    text = caption.translate(_STRAIGHT)
    places, position = [], 0
    for word in words:
        position = _skip_space(text, position)
        spelling = next((form for form in _spellings(word.text) if text.startswith(form, position)), None)
        if spelling is None:
            raise TreeError(
                f"the tree has {word.text!r} (character {word.position} of the tree) where the caption has "
                f"{caption[position : position + 20]!r} (character {position} of the caption)",
                position,
            )
        places.append((position, position + len(spelling)))
        position += len(spelling)
    position = _skip_space(text, position)
    if position < len(text):
        raise TreeError(
            f"the tree ends but the caption goes on with {caption[position : position + 20]!r} "
            f"(character {position} of the caption)",
            position,
        )
    return places


def _spellings(word: str) -> list[str]:
    """How a word of a tree may stand in a (straightened) caption: unescaped or as it is."""
    plain = word.replace(r"\/", "/").replace(r"\*", "*")
    return [form.translate(_STRAIGHT) for form in (_ESCAPES.get(word, plain), plain)]


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
