"""The triplet loss on plain similarities, on 8 shards of the batch, against the dense form."""

import jax
import numpy as np
import pytest
from test_global_triplet import dense, example, tiled

from harmopower.parallel import mesh as meshes

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)


@pytest.mark.parametrize("communication", ["ring", "gather"])
@pytest.mark.parametrize("rows", [16, 13], ids=["even", "uneven"])
def test_value_and_gradient_are_those_of_the_dense_form(rows, communication):
    image, text, weight = example(rows)
    expected, expected_gradient = jax.value_and_grad(dense, (0, 1))(image, text, np.asarray(weight))
    mesh = meshes.make_mesh(4, 2, 1, devices=jax.devices()[:8])
    loss = lambda image, text: tiled(image, text, weight, communication)
    with jax.set_mesh(mesh):
        value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(image, text)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for got, wanted in zip(gradient, expected_gradient):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-7)
