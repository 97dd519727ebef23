"""How the rows of a sharded batch meet: shard by shard across devices, and block by block inside a shard.

The losses compare every row with every row. Here is the one way in which they do it: each shard keeps its own rows
(`home`), the rows of every shard visit it (`guest`), and no matrix is ever larger than one tile. The guests come in one
of two ways (`objective.communication`):

- "ring": shard after shard by `ppermute`. A device never holds more than two shards, however many there
  are, and the hop hides behind the work of the visit. What the visits leave behind travels with the guest and comes
  home with it.
- "gather": all at once. Every device holds the guests of the whole batch and what its visit left behind for each of
  them; the latter are combined over the devices on their way home. Fewer and larger messages, which pays where the
  shards are small.
- "auto", the default: gathered where that takes at most `GATHERED_BYTES` a device, else in a ring; known from shapes.

Outside a mesh there is one shard and one visit.
"""

import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from harmopower.parallel import rules

COMMUNICATIONS = ("auto", "ring", "gather")
# What "auto" lets the gathered guests and their gradients take on a device: little beside a model, and up to there one
# collective is quicker than a hop for every shard (issue 11; counted, not measured).
GATHERED_BYTES = 256 * 2**20
# Numbers in the largest array of one tile. On a CPU 4 MiB, about a core's cache (measured: docs/benchmarks.md); an
# accelerator wants few large tiles, because every tile costs it some launches (reasoned, not measured).
TILE_NUMBERS = {"cpu": 2**20, "accelerator": 2**24}


class Meeting(NamedTuple):
    """How the rows of a batch meet: rows of a tile, and "ring" or "gather". Made by `arrange`."""

    block: int
    communication: str = "ring"


def batch_axes() -> tuple[str, ...]:
    """The batch axes of the rules over which the mesh of `jax.set_mesh` cuts the batch; empty outside a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return tuple(axis for axis in rules.BATCH_AXES if sizes.get(axis, 1) > 1)


def shard_count() -> int:
    """Into how many shards the mesh of `jax.set_mesh` cuts the batch; 1 outside a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[axis] for axis in batch_axes())


def over_batch(function, rows, shared=()):
    """Runs `function(axes, rows, shared)` once on each shard of the batch and returns what it returns.

    Args:
      function: gets the names of the batch axes (for `meet`), its own rows and the shared values whole. Everything that
        it returns must again have the rows of its shard on the leading axis.
      rows: tree of arrays [B, ...], B a multiple of `shard_count()` (see `pad_rows`).
      shared: tree of arrays that every shard holds whole.

    The call is not meant to be differentiated through: the losses give their derivatives themselves.
    """
    axes = batch_axes()
    if not axes:
        return function(axes, rows, shared)
    split, whole = PartitionSpec(axes), PartitionSpec()
    # Replication over the `tensor` axis cannot be proved through a ring, and nothing here depends on the proof.
    return jax.shard_map(
        lambda rows, shared: function(axes, rows, shared), in_specs=(split, whole), out_specs=split, check_vma=False
    )(rows, shared)


def visit_shards(visit, home, guest, guest_sums, communication: str, axes: tuple[str, ...], combine=None):
    """Lets the guests of every shard visit every shard once, and brings home what the visits left behind.

    Args:
      visit: `visit(home, guest, guest_sums) -> (home, guest_sums)` with the guests of one shard.
      home: tree that stays; `visit` updates it.
      guest: tree [b, ...] of the guests, read only.
      guest_sums: tree [b, ...] of what is accumulated for the guests, as it is before any visit: zeros, or what
        `combine` with anything leaves unchanged.
      communication: "ring" or "gather".
      axes: the batch axes that `over_batch` gave; empty for one shard.
      combine: `combine(sums, sums) -> sums` joins what two visits left behind; None adds.
    Returns:
      home and guest_sums after all visits, the latter on the shard that the guests came from.
    """
    if not axes:
        return visit(home, guest, guest_sums)
    if communication == "ring":
        return _ring(visit, home, guest, guest_sums, axes)
    return _gather(visit, home, guest, guest_sums, axes, combine)


def _ring(visit, home, guest, guest_sums, axes):
    count = lax.axis_size(axes)
    neighbours = [(shard, (shard + 1) % count) for shard in range(count)]

    def hop(state, _):
        home, guest, guest_sums = state
        # The guest leaves before the visit is over, so that its hop overlaps with the work.
        travelled = lax.ppermute(guest, axes, neighbours)
        home, guest_sums = visit(home, guest, guest_sums)
        return (home, travelled, lax.ppermute(guest_sums, axes, neighbours)), None

    (home, _, guest_sums), _ = lax.scan(hop, (home, guest, guest_sums), length=count)
    return home, guest_sums


def _gather(visit, home, guest, guest_sums, axes, combine):
    everyone = jax.tree.map(lambda rows: lax.all_gather(rows, axes), guest)  # [shards, b, ...]
    home, left = lax.scan(lambda home, guest: visit(home, guest, guest_sums), home, everyone)
    if combine is None:
        return home, jax.tree.map(lambda rows: lax.psum_scatter(rows, axes), left)
    # What each shard has left behind for the guests of this one.
    left = jax.tree.map(lambda rows: lax.all_to_all(rows, axes, 0, 0), left)
    return home, lax.scan(lambda one, other: (combine(one, other), None), guest_sums, left)[0]


def meet(tile, home, home_sums, guest, guest_sums, meeting: Meeting, axes: tuple[str, ...], combine=None):
    """Lets every row of the global batch meet every row, `meeting.block` by `meeting.block` rows at a time.

    Args:
      tile: `tile(home, home_sums, guest, guest_sums) -> (home_sums, guest_sums)` on one block of each.
      home, home_sums: trees [b, ...] of this shard that stay: what is read and what is accumulated.
      guest, guest_sums: trees [b, ...] of this shard that visit all shards.
      meeting: from `arrange`; its block must divide b.
      axes, combine: see `visit_shards`; sums are given as they are before any meeting.
    Returns:
      home_sums and guest_sums of this shard, complete over the global batch.
    """

    def visit(home_sums, guest, guest_sums):
        # Home blocks outside: what a tile derives from its home block alone is computed once for all guests.
        def home_meets_all(guest_sums, home_block):
            home, home_sums = home_block

            def guest_meets_home(home_sums, guest_block):
                guest, guest_sums = guest_block
                return tile(home, home_sums, guest, guest_sums)

            home_sums, guest_sums = lax.scan(guest_meets_home, home_sums, (guest, guest_sums))
            return guest_sums, home_sums

        guest_sums, home_sums = lax.scan(home_meets_all, guest_sums, (home, home_sums))
        return home_sums, guest_sums

    home, home_sums, guest, guest_sums = split_blocks((home, home_sums, guest, guest_sums), meeting.block)
    return join_blocks(visit_shards(visit, home_sums, guest, guest_sums, meeting.communication, axes, combine))


def split_blocks(tree, block: int):
    """Cuts the leading axis of every array: [b, ...] -> [b / block, block, ...]."""
    return jax.tree.map(lambda array: array.reshape((-1, block) + array.shape[1:]), tree)


def join_blocks(tree):
    """Undoes `split_blocks`: [blocks, block, ...] -> [b, ...]."""
    return jax.tree.map(lambda array: array.reshape((-1,) + array.shape[2:]), tree)


def tile_rows(numbers: int = 1) -> int:
    """Rows of a square tile on this backend, a power of two and at least 8.

    Args:
      numbers: in the largest array of a tile, for each of its pairs of rows.
    """
    limit = TILE_NUMBERS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    rows = 8
    while (2 * rows) ** 2 * numbers <= limit:
        rows *= 2
    return rows


def gathered_bytes(guest) -> int:
    """Bytes a device of guests [B, ...] of the whole batch and of a float32 gradient for each of their numbers."""
    return math.prod(guest.shape) * (guest.dtype.itemsize + 4)


def choose(communication: str, guest) -> str:
    """ "ring" or "gather": what `communication`, one of `COMMUNICATIONS`, means for guests of that shape and type.

    Raises:
      ValueError: communication is none of `COMMUNICATIONS`.
    """
    if communication not in COMMUNICATIONS:
        raise ValueError(f"objective.communication is {communication!r}; choose one of {', '.join(COMMUNICATIONS)}")
    if communication == "auto":
        return "gather" if gathered_bytes(guest) <= GATHERED_BYTES else "ring"
    return communication


def arrange(guest, block: int | None, default: int, communication: str) -> Meeting:
    """How a batch of guests [B, ...] meets: in tiles of `block` rows, or in as few even ones as `default` allows.

    Raises:
      ValueError: block is not positive, or communication is none of `COMMUNICATIONS`.
    """
    if block is not None and block < 1:
        raise ValueError(f"block {block} is not a number of rows; give at least 1, or None to choose from the shapes")
    shard = -(-guest.shape[0] // shard_count())
    # Even tiles: 5,120 rows in two of 2,560 and none of padding, not in two of 4,096. Multiples of 8 suit memory.
    even = -(-shard // -(-shard // default))
    return Meeting(min(block or even + -even % 8, shard), choose(communication, guest))


def pad_rows(tree, block: int):
    """Appends zero rows to every array, so that each shard has the same number of whole blocks.

    Zeros are no weight, no region and no phrase: such rows count nowhere.
    """
    multiple = block * shard_count()

    def pad(array):
        array = jnp.asarray(array)  # callers may hold masks in NumPy, which a traced index cannot enter
        missing = -array.shape[0] % multiple
        return jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array

    return jax.tree.map(pad, tree)
