"""Frozen parameters and the moving average on eight devices: the same as on one, sharded as the rules say."""

import jax
import numpy as np
import pytest

from harmopower.parallel import mesh as meshes
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from tests.training import common
from tests.training.test_letterbox import letterboxed

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)


def test_groups_train_the_same_on_eight_devices_and_under_accumulation():
    text = "text/*=0,vision/transformer/blocks/[01]/*=0,vision/transformer/blocks/2/*=0.1"
    several = common.freeze_for_twenty_steps(text, meshes.make_mesh(2, 2, 2), "adamw", 2)
    one = common.freeze_for_twenty_steps(text, meshes.make_mesh(devices=jax.devices()[:1]), "adamw", 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), several, one)


def test_the_average_is_the_recursion_on_eight_devices_and_sharded_as_the_parameters():
    mesh = meshes.make_mesh(2, 2, 2)
    common.average_six_steps(mesh, 2)
    config, model, _ = common.micro()
    places = states.shardings(model, optimizers.make_optimizer(config), mesh, ema=True)
    assert places.ema == places.params and len({str(place.spec) for place in jax.tree.leaves(places.ema)}) > 3


def test_letterboxed_rectangles_train_the_same_on_eight_devices_and_under_accumulation():
    """Padding, drawn patches, regions and crops of each image stay its own, wherever its row lies."""

    def two_steps(mesh, accumulate):
        config, model, _, batch = letterboxed(
            data__image_width=48, model__patch_dropout=0.3, accumulate=accumulate, optimizer__epsilon=1e-5
        )
        return common.micro_steps(config, model, batch, mesh, 2)

    one, alone = two_steps(meshes.make_mesh(devices=jax.devices()[:1]), 1)
    several, shared = two_steps(meshes.make_mesh(2, 2, 2), 2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), several[-1].params, one[-1].params
    )
    for term in ("lexeme_region", "global_region"):
        np.testing.assert_allclose(shared[f"loss/{term}"], alone[f"loss/{term}"], rtol=1e-4)


def test_crops_teach_the_same_on_eight_devices_and_under_accumulation():
    def three_steps(mesh, accumulate, chunk):
        config, model, batch = common.micro_crops(
            objective__global_region__teacher="start",
            objective__global_region__crop_chunk=chunk,
            optimizer__epsilon=1e-5,
            accumulate=accumulate,
        )
        places = states.shardings(model, optimizers.make_optimizer(config), mesh, start=True)
        assert places.start == {"vision": places.params["vision"]}
        return common.micro_steps(config, model, batch, mesh, 3)

    one, alone = three_steps(meshes.make_mesh(devices=jax.devices()[:1]), 1, 0)
    several, shared = three_steps(meshes.make_mesh(2, 2, 2), 2, 2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), several[-1].params, one[-1].params
    )
    np.testing.assert_allclose(shared["loss/global_region"], alone["loss/global_region"], rtol=1e-4)
    for seen in (one, several):
        assert common.bits(seen[-1].start) == common.bits(seen[0].params["vision"])
