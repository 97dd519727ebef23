"""How the rows of a sharded batch meet: shard by shard in a ring, and block by block inside a shard.

The losses compare every row with every row. Here is the one way in which they do it: each shard keeps its own rows
(`home`) and lets the rows of every other shard visit (`guest`), so a device never holds more than two shards, and never
a matrix larger than one tile. What the visit leaves behind travels with the guest and comes home with it, so no
separate reduction over devices is needed. Outside a mesh there is one shard and the ring is a single visit.
"""
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from harmopower.parallel import rules


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
      function: gets the names of the batch axes (for `ring`), its own rows and the shared values whole. Everything that
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
        lambda rows, shared: function(axes, rows, shared), in_specs=(split, whole), out_specs=split, check_vma=False,
    )(rows, shared)


def ring(visit, home, guest, guest_sums, axes: tuple[str, ...]):
    """Lets the guest of every shard visit every shard once and come home.

    Args:
      visit: `visit(home, guest, guest_sums) -> (home, guest_sums)`.
      home: tree that stays; `visit` updates it.
      guest: tree that travels unchanged, so that its next hop overlaps with the work of this one.
      guest_sums: tree that travels with the guest and that `visit` updates.
      axes: the batch axes that `over_batch` gave; empty for one shard.
    Returns:
      home and guest_sums after all visits, the latter back on the shard that sent them.
    """
    if not axes:
        return visit(home, guest, guest_sums)
    count = lax.axis_size(axes)
    neighbours = [(shard, (shard + 1) % count) for shard in range(count)]

    def hop(state, _):
        home, guest, guest_sums = state
        travelled = lax.ppermute(guest, axes, neighbours)
        home, guest_sums = visit(home, guest, guest_sums)
        return (home, travelled, lax.ppermute(guest_sums, axes, neighbours)), None

    (home, _, guest_sums), _ = lax.scan(hop, (home, guest, guest_sums), length=count)
    return home, guest_sums


def meet(tile, home, home_sums, guest, guest_sums, block: int, axes: tuple[str, ...]):
    """Lets every row of the global batch meet every row, `block` by `block` rows at a time.

    Args:
      tile: `tile(home, home_sums, guest, guest_sums) -> (home_sums, guest_sums)` on one block of each.
      home, home_sums: trees [b, ...] of this shard that stay: what is read and what is accumulated.
      guest, guest_sums: trees [b, ...] of this shard that visit all shards.
      block: rows of a tile; must divide b.
      axes: the batch axes that `over_batch` gave.
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

    home, home_sums, guest, guest_sums = split_blocks((home, home_sums, guest, guest_sums), block)
    return join_blocks(ring(visit, home_sums, guest, guest_sums, axes))


def split_blocks(tree, block: int):
    """Cuts the leading axis of every array: [b, ...] -> [b / block, block, ...]."""
    return jax.tree.map(lambda array: array.reshape((-1, block) + array.shape[1:]), tree)


def join_blocks(tree):
    """Undoes `split_blocks`: [blocks, block, ...] -> [b, ...]."""
    return jax.tree.map(lambda array: array.reshape((-1,) + array.shape[2:]), tree)


def fit_block(rows: int, block: int | None, default: int) -> int:
    """The rows of a block: `block` or else `default`, but never more than a shard of the batch of `rows` has.

    Raises:
      ValueError: block is not positive.
    """
    if block is not None and block < 1:
        raise ValueError(f"block {block} is not a number of rows; give at least 1, or None to choose from the shapes")
    return min(block or default, -(-rows // shard_count()))


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
