"""Ranks among many candidates, on all devices: the similarities of a whole set are never in memory at once."""

import jax
import jax.numpy as jnp
import numpy as np

from harmopower.evaluation import ranking
from harmopower.evaluation.encoder import whole
from harmopower.parallel import mesh as meshes


def ranks(queries: np.ndarray, candidates: np.ndarray, owners: np.ndarray, candidate_owners: np.ndarray) -> np.ndarray:
    """For each query how many wrong candidates come before the best right one; a tie and NaN count against it.

    Every process of a mesh calls it with the same arrays; each device takes its share of the queries, some at a time
    against all candidates.

    Args:
      queries: [Q, D] and candidates: [C, D], L2-normalised.
      owners: int [Q] and candidate_owners: int [C]; a candidate is right for the queries of its owner.

    Returns:
      int [Q]; -1 for a query that no candidate is right for.
    """
    if not len(queries) or not len(candidates):
        return np.full(len(queries), -1)
    shape = blocks(len(queries), len(candidates))
    count = shape[0] * shape[1] * shape[2]
    padded = np.zeros((count, queries.shape[1]), np.float32)
    padded[: len(queries)] = queries
    own = np.full(count, -1, np.int32)
    own[: len(queries)] = owners
    found = blocked_ranks(
        *map(_place, (padded.reshape(*shape, -1), own.reshape(shape))),
        jnp.asarray(candidates, jnp.float32),
        jnp.asarray(candidate_owners, jnp.int32),
    )
    return np.asarray(found).reshape(-1)[: len(queries)]


def blocks(queries: int, candidates: int) -> tuple[int, int, int]:
    """Devices, blocks of each, queries of a block, whose similarities to all candidates are `BLOCK_BYTES` at most."""
    shards = meshes.batch_shards(jax.sharding.get_abstract_mesh())
    own = -(-queries // shards)
    rows = min(own, max(1, ranking.BLOCK_BYTES // (4 * candidates)))
    return shards, -(-own // rows), rows


def _place(array: np.ndarray):
    """The same array of every process, its leading axis over the devices."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return array
    return jax.make_array_from_callback(array.shape, meshes.batch_sharding(mesh), lambda index: array[index])


@jax.jit
def blocked_ranks(queries, owners, candidates, candidate_owners):
    """`ranks` of [devices, blocks, q, D], whose owners are [devices, blocks, q]."""

    def block(own):
        vectors, names = own
        # In full precision also where matrix products are rounded by default: a rank hangs on the last bits.
        scores = jnp.einsum("sqd,cd->sqc", vectors, candidates, precision=jax.lax.Precision.HIGHEST)
        right = names[..., None] == candidate_owners
        best = jnp.max(scores, axis=-1, where=right, initial=-jnp.inf)
        wrong = ~right & ~(scores < best[..., None])
        return jnp.where(right.any(-1), wrong.sum(-1, dtype=jnp.int32), -1)

    # Blocks are gone through one after the other, with every device at its own.
    found = jax.lax.map(block, (jnp.moveaxis(queries, 1, 0), jnp.moveaxis(owners, 1, 0)))
    return whole(jnp.moveaxis(found, 0, 1))
