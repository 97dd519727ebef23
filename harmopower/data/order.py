"""Which record stands at which position of a run: pure functions of (seed, position) that hold no list of records."""

import dataclasses
from fractions import Fraction
import functools

import grain
import numpy as np

SHUFFLES = ("global", "window")


@dataclasses.dataclass(frozen=True)
class Order:
    """Place in the run -> group of records; each epoch has every group once, in an order of its own.

    `global` permutes all groups. `window` reads as disks like it: it permutes blocks of consecutive groups, and then
    the groups within windows of several blocks, so that while a window is read only its blocks are. Where the first
    block begins is drawn for each epoch, so blocks and windows have other members each time.

    Attributes:
      groups: how many there are.
      seed: of the order.
      shuffle: `global` or `window`.
      block: consecutive groups of a block.
      blocks: blocks of a window.
    """

    groups: int
    seed: int
    shuffle: str = "global"
    block: int = 1024
    blocks: int = 16

    def __post_init__(self):
        if self.shuffle not in SHUFFLES:
            raise ValueError(f"config.data.shuffle is {self.shuffle!r}; it must be one of {', '.join(SHUFFLES)}")

    def __getitem__(self, place: int) -> int:
        if self.shuffle == "global":
            return _permuted(self.groups, self.seed, place)
        epoch, place = divmod(place, self.groups)
        window, inside = divmod(place, self.block * self.blocks)
        first = window * self.block * self.blocks
        length = min(self.block * self.blocks, self.groups - first)
        inside = _permuted(length, _seed(self.seed, epoch, 1, window), inside)
        block, member = divmod(first + inside, self.block)
        whole = self.groups // self.block
        if block < whole:  # the groups that fill no block stay at the end; the turn makes them others each epoch
            block = _permuted(whole, _seed(self.seed, epoch, 0), block)
        return (block * self.block + member + _turn(self.groups, self.seed, epoch)) % self.groups


def _permuted(length: int, seed: int, place: int) -> int:
    index = _permutation(length, seed)[place]
    assert index is not None  # only what a filter leaves out is
    return index


@functools.lru_cache(maxsize=256)
def _permutation(length: int, seed: int) -> grain.MapDataset:
    """Index -> index, computed and not stored; beyond `length` comes another epoch in another order."""
    return grain.MapDataset.range(length).seed(seed).shuffle().repeat()


@functools.lru_cache(maxsize=256)
def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _turn(groups: int, seed: int, epoch: int) -> int:
    return _seed(seed, epoch, 2) % groups


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Position in the run -> (source, record).

    The sources take turns so evenly that over any stretch each one's share is its weight, up to a few groups: of the
    places that the sources before it leave over, a source with share `s` of the rest takes those where
    `floor(place * s)` steps up (our choice). So how often a source came before a position needs no counting, and its
    own order runs on through all of its epochs.

    Attributes:
      orders: of the groups of each source.
      weights: of each source, above 0; shares of their sum.
      group_size: consecutive records that stay together.
    """

    orders: tuple[Order, ...]
    weights: tuple[Fraction, ...] = (Fraction(1),)
    group_size: int = 1

    def __getitem__(self, position: int) -> tuple[int, int]:
        place, member = divmod(position, self.group_size)
        source, place = self._turn(place)
        return source, self.orders[source][place] * self.group_size + member

    def _turn(self, place: int) -> tuple[int, int]:
        """Whose turn it is at a place, and how many turns that source had before."""
        for source, share in enumerate(self._shares):
            before = place * share.numerator // share.denominator
            if (place + 1) * share.numerator // share.denominator > before:
                return source, before
            place -= before
        raise AssertionError("the last share is 1")

    @functools.cached_property
    def _shares(self) -> tuple[Fraction, ...]:
        return tuple(weight / sum(self.weights[i:]) for i, weight in enumerate(self.weights))


def source_seed(seed: int, source: int) -> int:
    """The seed of a source's order: the run's own for the first one, so that one source is what it always was."""
    return seed if source == 0 else _seed(seed, 3, source)
