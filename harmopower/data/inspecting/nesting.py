"""How the spans of a caption lie in each other."""

from collections.abc import Sequence

Span = tuple[int, int]


def order(spans: Sequence[Span]) -> list[Span]:
    """The distinct spans, outer before inner, left before right."""
    return sorted(set(spans), key=lambda span: (span[0], -span[1]))


def depths(spans: Sequence[Span]) -> list[int]:
    """How deep each span lies: 1 for one that no other contains, else one more than the deepest that contains it.

    Args:
      spans: as `order` gives them.
    """
    found: list[int] = []
    for index, (_, end) in enumerate(spans):
        # Whoever contains a span comes before it; those that only cross it end before it does.
        found.append(1 + max((found[j] for j in range(index) if end <= spans[j][1]), default=0))
    return found


def depth(spans: Sequence[Span]) -> int:
    """Of the whole tree; 0 for none."""
    return max(depths(order(spans)), default=0)
