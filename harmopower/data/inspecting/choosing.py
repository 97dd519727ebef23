"""Which of the examples looked at come on the page: drawn at random, but of each kind of trouble some."""

import heapq

import numpy as np

_SHARE = 5  # one of so many places is kept for each kind


class Chosen:
    """Keeps, of all examples shown to it, a uniform sample of each kind (reservoir sampling, Vitter's algorithm R).

    What is kept is a function of the seed and of what was shown.
    """

    def __init__(self, count: int, seed: int):
        self._count, self._each = count, -(-count // _SHARE)
        self._rng = np.random.default_rng(seed)
        self._kept: dict[str, list[int]] = {}
        self._seen: dict[str, int] = {}
        self._most: list[tuple[int, int]] = []

    def show(self, index: int, kinds: set[str], boxes: int) -> None:
        """An example that was looked at: its kinds, and how many boxes it has."""
        for kind in ["", *sorted(kinds)]:
            self._show(kind, index, self._each if kind else self._count)
        heapq.heappush(self._most, (boxes, -index))
        if len(self._most) > self._each:
            heapq.heappop(self._most)

    def _show(self, kind: str, index: int, size: int) -> None:
        kept, seen = self._kept.setdefault(kind, []), self._seen.get(kind, 0)
        self._seen[kind] = seen + 1
        if len(kept) < size:
            kept.append(index)
        elif (place := int(self._rng.integers(seen + 1))) < size:
            kept[place] = index

    def indices(self) -> list[int]:
        """At most `count` of them, in their order."""
        most = [-index for boxes, index in sorted(self._most, reverse=True) if boxes]
        special = [kept for kind, kept in self._kept.items() if kind]
        wanted = [index for group in (*special, most, self._kept.get("", [])) for index in group]
        return sorted(list(dict.fromkeys(wanted))[: self._count])
