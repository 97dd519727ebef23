"""Blocks, padding and the meeting of rows on one device; several: test_collectives_multi_device.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.config import SETTINGS
from harmopower.parallel import collectives


def test_every_row_meets_every_row_once():
    home, guest = jnp.arange(6.0), 10 * jnp.arange(6.0)

    def tile(home, home_sums, guest, guest_sums):
        products = guest[:, None] * home[None, :]
        return home_sums + products.sum(0), guest_sums + products.sum(1)

    for block in (1, 2, 3, 6):
        meeting = collectives.Meeting(block)
        home_sums, guest_sums = collectives.meet(tile, home, jnp.zeros(6), guest, jnp.zeros(6), meeting, ())
        np.testing.assert_allclose(home_sums, home * guest.sum())
        np.testing.assert_allclose(guest_sums, guest * home.sum())


def test_padding_fills_whole_blocks_with_zeros():
    padded = collectives.pad_rows({"a": np.ones((5, 2)), "mask": np.ones(5, bool)}, 4)
    assert padded["a"].shape == (8, 2) and padded["a"].sum() == 10
    assert padded["mask"].dtype == bool and not padded["mask"][5:].any()


def test_blocks_never_exceed_the_rows():
    guest = lambda rows: np.zeros((rows, 2), np.float32)
    assert collectives.arrange(guest(5), None, 64, "ring") == (5, "ring")
    assert collectives.arrange(guest(500), None, 64, "gather") == (64, "gather")
    assert collectives.arrange(guest(500), 7, 64, "ring") == (7, "ring")
    with pytest.raises(ValueError, match="block 0"):
        collectives.arrange(guest(5), 0, 64, "ring")
    with pytest.raises(ValueError, match="objective.communication is 'star'; choose one of auto, ring, gather"):
        collectives.arrange(guest(5), None, 64, "star")


def test_tiles_are_even_so_that_little_is_padded():
    for rows, default, block in ((5120, 4096, 2560), (4097, 4096, 2056), (4096, 4096, 4096), (10, 8, 8)):
        assert collectives.arrange(np.zeros((rows, 1)), None, default, "ring").block == block


def test_tiles_are_chosen_by_backend(monkeypatch):
    assert collectives.tile_rows() == 1024 and collectives.tile_rows(200) == 64
    monkeypatch.setattr(collectives.jax, "default_backend", lambda: "gpu")
    assert collectives.tile_rows() == 4096 and collectives.tile_rows(200) == 256


def test_auto_gathers_what_takes_at_most_256_mib():
    """Rows of 512 numbers, and a float32 gradient for each: 2 + 4 bytes a number in bfloat16, 4 + 4 in float32."""
    shape = lambda rows, dtype: jax.ShapeDtypeStruct((rows, 512), dtype)
    for dtype, most in ((jnp.float32, 65536), (jnp.bfloat16, 87381)):
        assert collectives.choose("auto", shape(most, dtype)) == "gather"
        assert collectives.choose("auto", shape(most + 1, dtype)) == "ring"
    assert collectives.choose("ring", shape(8, jnp.float32)) == "ring"


def test_outside_a_mesh_there_is_one_shard():
    assert collectives.batch_axes() == () and collectives.shard_count() == 1
    assert collectives.over_batch(lambda axes, rows, shared: (axes, rows + shared), 1, 2) == ((), 3)


def test_the_config_offers_what_there_is():
    assert SETTINGS["objective.communication"].legal.choices == collectives.COMMUNICATIONS
