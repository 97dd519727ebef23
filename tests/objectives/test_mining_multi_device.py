"""Every choice of negatives on 1, 2, 4 and 8 shards of the batch, against a dense float64 form."""

import jax
import mines
from mines import MENDS
import pytest

from harmopower.parallel import mesh as meshes

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

# Uneven shards and several tiles a visit among them; every mend meets every mesh, the two ways to meet take turns.
CASES = {
    (1, 1): (13, "ring"),
    (2, 1): (13, "gather"),
    (4, 1): (13, "ring"),
    (4, 2): (13, "gather"),
    (8, 1): (16, "ring"),
}


@pytest.mark.parametrize("mesh", CASES, ids=str)
@pytest.mark.parametrize("name", MENDS)
def test_value_and_gradient_are_those_of_the_dense_form(name, mesh):
    rows, communication = CASES[mesh]
    devices = jax.devices()[: mesh[0] * mesh[1]]
    with jax.set_mesh(meshes.make_mesh(*mesh, 1, devices=devices)):
        for seed in range(3):
            mines.agree(MENDS[name], mines.example(rows, seed), communication=communication, block=2)
