"""Who meets whom across shards, and what comes home, in a ring and gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.parallel import collectives
from harmopower.parallel import mesh as meshes

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

ROWS = 16
COMBINE = {"sum": None, "best": jnp.maximum}


@pytest.mark.parametrize("shape", [(2,), (4,), (4, 2), (2, 2, 2)])
@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("communication", ["ring", "gather"])
def test_every_row_meets_every_row_once_and_comes_home(communication, combine, shape):
    home, guest = np.arange(1.0, 1 + ROWS), np.random.default_rng(0).normal(size=ROWS).astype(np.float32)
    start = jnp.zeros if combine == "sum" else lambda rows: jnp.full(rows, -jnp.inf)
    meeting = collectives.Meeting(2 if ROWS / np.prod(shape) % 2 == 0 else 1, communication)

    def tile(home, home_sums, guest, guest_sums):
        products = guest[:, None] * home[None, :]
        if combine == "sum":
            return home_sums + products.sum(0), guest_sums + products.sum(1)
        return jnp.maximum(home_sums, products.max(0)), jnp.maximum(guest_sums, products.max(1))

    def shard(axes, rows, _):
        home, guest = rows
        empty = start(home.shape)
        return collectives.meet(tile, home, empty, guest, empty, meeting, axes, COMBINE[combine])

    mesh = meshes.make_mesh(*shape, *(1,) * (3 - len(shape)), devices=jax.devices()[: int(np.prod(shape))])
    with jax.set_mesh(mesh):
        got = jax.jit(lambda *rows: collectives.over_batch(shard, rows))(jnp.float32(home), guest)
    products = guest[:, None] * home[None, :]
    reduce = products.sum if combine == "sum" else products.max
    np.testing.assert_allclose(got[0], reduce(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[1], reduce(1), rtol=1e-5, atol=1e-5)
