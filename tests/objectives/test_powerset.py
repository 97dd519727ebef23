"""The powerset objective: METHOD's values, the float64 oracle, the bounds, and two sweeps against the dense form."""

import functools
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from harmopower.objectives import powerset, subsets
from tools import operations, reference

# One padded shape for all random cases: the masks make M 1..12 and K 1..24 of it, and jit compiles once.
CASES, MAX_M, MAX_K = 4, 12, 24
METHOD_SCORES = np.array([[0.3, -0.1, 0.2], [-0.2, 0.4, 0.1], [0.05, 0.1, -0.3]], np.float32)
HOW = {
    "exact": dict(method="exact"),
    "nla": dict(method="nla", temperature=0.02),
    "nla-mean": dict(method="nla", temperature=0.05, zeta=0.25, score_norm="mean"),
    "sampled": dict(method="sampled", samples=37),
    "single": dict(method="single"),
    "single T2R": dict(method="single", direction="tree_to_region"),
    "nla R2T": dict(method="nla", temperature=0.02, direction="region_to_tree"),
}

exact = jax.jit(powerset.region_to_tree)
closed = jax.jit(powerset.tree_to_region)
nla = jax.jit(partial(powerset.region_to_tree, method="nla"), static_argnames=("temperature", "zeta"))
soft = jax.jit(powerset.tree_to_region, static_argnames="temperature")


def random_block(seed, kind, scale):
    """s [CASES, 12, 24] and ragged masks, the first case with a single region and phrase, the second full."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(CASES, MAX_M, MAX_K))
    if kind == "ties":
        s = np.round(s)
    elif kind == "negative":
        s = -np.abs(s)
    elif kind == "equal":
        s = np.full_like(s, rng.normal())
    regions, phrases = rng.integers(1, MAX_M + 1, CASES), rng.integers(1, MAX_K + 1, CASES)
    regions[:2], phrases[:2] = (1, MAX_M), (1, MAX_K)
    region_mask = rng.permuted(np.arange(MAX_M) < regions[:, None], axis=1)
    phrase_mask = rng.permuted(np.arange(MAX_K) < phrases[:, None], axis=1)
    return (s * scale).astype(np.float32), region_mask, phrase_mask


blocks = st.builds(
    random_block,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "ties", "negative", "equal"]),
    st.sampled_from([1e-6, 0.1, 1.0, 1e4]),
)


def expected(function, s, region_mask, phrase_mask, *arguments):
    return np.array([function(oracle.valid_part(*case), *arguments) for case in zip(s, region_mask, phrase_mask)])


def agree(got, wanted, s, tolerance=1e-5, tau=0.0):
    """Within the tolerance of the largest possible sum over regions: float32 keeps relative, not absolute, digits.

    The aggregators are tau times a logarithm of up to ln 24, whose last digit counts too.
    """
    largest = max(np.abs(s).sum(1).max(), 1e-3, tau / 10)
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * largest)


def test_values_of_method():
    s, full = METHOD_SCORES, np.ones(3, bool)
    assert exact(s, full, full) == pytest.approx(0.293750, abs=1e-6)
    assert closed(s, full, full) == pytest.approx(0.383333, abs=1e-6)
    for tau, t1, t2s in (
        (0.1, 0.442768, (0.235195, 0.272752, 0.348053, 0.385792)),
        (0.01, 0.383356, (0.200000, 0.269802, 0.409405, 0.479206)),
    ):
        assert soft(s, full, full, temperature=tau) == pytest.approx(t1, abs=1e-6)
        got = [nla(s, full, full, temperature=tau, zeta=zeta) for zeta in (0.0, 0.25, 0.75, 1.0)]
        assert got == pytest.approx(t2s, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(blocks)
def test_oracle_agrees_on_ragged_blocks(block):
    s = block[0]
    agree(exact(*block), expected(oracle.region_to_tree, *block), s)
    agree(closed(*block), expected(oracle.tree_to_region, *block), s)
    for tau in (1e-3, 0.1):
        agree(soft(*block, temperature=tau), expected(oracle.t1, *block, tau), s, tau=tau)
        agree(nla(*block, temperature=tau, zeta=0.75), expected(oracle.t2, *block, tau, 0.75), s, tau=tau)


@pytest.mark.parametrize("regions, phrases", [(1, 1), (2, 3), (7, 1), (12, 5)])
def test_oracle_agrees_on_unpadded_shapes(regions, phrases):
    s = np.random.default_rng(regions).normal(size=(regions, phrases)).astype(np.float32)
    masks = np.ones(regions, bool), np.ones(phrases, bool)
    agree(powerset.region_to_tree(s, *masks), oracle.region_to_tree(s), s[None])
    agree(powerset.tree_to_region(s, *masks), oracle.tree_to_region(s), s[None])


def test_bounds_hold_on_thousands_of_blocks():
    rng = np.random.default_rng(0)
    tau, s = 0.05, (rng.normal(size=(4000, 5, 6)) * rng.choice([0.01, 0.1, 1], (4000, 1, 1))).astype(np.float32)
    region_mask, phrase_mask = rng.random((4000, 5)) < 0.8, rng.random((4000, 6)) < 0.8
    region_mask[:, 0] = phrase_mask[:, 0] = True
    block, slack = (s, region_mask, phrase_mask), 1e-5
    gap = soft(*block, temperature=tau) - closed(*block)
    assert (gap >= -slack).all() and (gap <= tau * region_mask.sum(1) * np.log(2) + slack).all()
    lower = np.where(phrase_mask, (s * region_mask[..., None]).sum(1) / 2, -np.inf).max(1)
    mean_field = nla(*block, temperature=tau, zeta=0.0)
    assert (mean_field >= lower - slack).all() and (mean_field <= lower + tau * np.log(6) + slack).all()
    truth = exact(*block)
    assert (truth >= lower - slack).all() and (truth <= nla(*block, temperature=tau, zeta=1.0) + slack).all()


@settings(max_examples=10, deadline=None)
@given(blocks, st.randoms())
def test_order_and_padding_do_not_matter(block, random):
    s, region_mask, phrase_mask = block
    rows, columns = random.sample(range(MAX_M), MAX_M), random.sample(range(MAX_K), MAX_K)
    moved = s[:, rows][..., columns], region_mask[:, rows], phrase_mask[:, columns]
    # What stands behind a mask must not matter either.
    dirty = np.where(region_mask[..., None] & phrase_mask[:, None], s, 1e6).astype(np.float32), region_mask, phrase_mask
    for function in (exact, closed, partial(nla, temperature=0.1, zeta=0.75), partial(soft, temperature=0.1)):
        agree(function(*moved), function(*block), s, tolerance=3e-6)
        np.testing.assert_array_equal(function(*dirty), function(*block))


def test_sampled_is_the_mean_over_its_subsets_and_unbiased():
    s, full, key = METHOD_SCORES, np.ones(3, bool), jax.random.key(0)
    drawn = np.asarray(subsets.draw_subsets(subsets.How("sampled", samples=50), 3, key))
    got = powerset.region_to_tree(s, full, full, method="sampled", samples=50, rng=key)
    assert got == pytest.approx((drawn @ s).max(1).mean(), abs=1e-6)
    many = powerset.region_to_tree(s, full, full, method="sampled", samples=20000, rng=key)
    assert many == pytest.approx(0.29375, abs=5 * 0.2 / np.sqrt(20000))


def test_exact_gradient_counts_winners_and_gives_ties_to_the_lowest_phrase():
    s = jnp.zeros((2, 3))
    gradient = jax.grad(lambda s: powerset.region_to_tree(s, np.ones(2, bool), np.ones(3, bool)))(s)
    np.testing.assert_array_equal(gradient, [[0.5, 0, 0], [0.5, 0, 0]])


@pytest.mark.parametrize("method", ["exact", "nla"])
def test_block_gradient_is_the_oracles(method):
    rng = np.random.default_rng(3)
    s, direction = rng.normal(size=(2, 6, 5))
    region_mask, phrase_mask = np.arange(6) < 5, np.arange(5) < 4
    how = dict(method=method, temperature=0.3, zeta=0.6)
    gradient = jax.grad(lambda s: powerset.region_to_tree(s, region_mask, phrase_mask, **how))(jnp.float32(s))
    reference = {"exact": oracle.region_to_tree, "nla": lambda s: oracle.t2(s, 0.3, 0.6)}[method]
    slope = oracle.directional_derivative(
        lambda s: reference(oracle.valid_part(s, region_mask, phrase_mask)), (s,), (direction,)
    )
    assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-4)


def example(rows=7, regions=5, phrases=6, width=16):
    """Features with ragged masks, an image without regions, a text without phrases, and a row of weight 0."""
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows, regions, width))
    phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
    region_mask, phrase_mask = rng.random((rows, regions)) < 0.7, rng.random((rows, phrases)) < 0.7
    region_mask[1], phrase_mask[2] = False, False
    weight = np.where(np.arange(rows) == 3, 0, np.where(np.arange(rows) == 4, 0.5, 1)).astype(np.float32)
    phi = np.where(region_mask[..., None], phi, 0).astype(np.float32)
    return (phi, region_mask, rng.normal(size=(rows, phrases, width)).astype(np.float32), phrase_mask), weight


@functools.lru_cache
def jitted(loss, how):
    """One compilation for all tests that use the same loss in the same way."""

    def of_features(regions, phrases, region_mask, phrase_mask, weight):
        return loss(
            regions,
            region_mask,
            phrases,
            phrase_mask,
            margin=0.2,
            weight_rows=weight,
            rng=jax.random.key(5),
            **dict(how),
        )

    return jax.jit(jax.value_and_grad(of_features, (0, 1), has_aux=True))


def value_and_gradient(loss, arrays, weight, **how):
    regions, region_mask, phrases, phrase_mask = arrays
    (value, metrics), gradient = jitted(loss, tuple(how.items()))(regions, phrases, region_mask, phrase_mask, weight)
    return value, gradient, metrics


@pytest.mark.parametrize("how", [how for name, how in HOW.items() if " " not in name], ids=lambda how: how["method"])
def test_two_sweeps_equal_the_dense_form(how):
    arrays, weight = example()
    value, gradient, metrics = value_and_gradient(reference.scored_loss, arrays, weight, **how)
    assert value > 0 and np.abs(gradient[0]).max() > 1e-2
    for block in ({}, dict(block=3)):
        tiled, tiled_gradient, tiled_metrics = value_and_gradient(
            powerset.powerset_loss, arrays, weight, **block, **how
        )
        np.testing.assert_allclose(tiled, value, rtol=1e-6)
        for got, wanted in zip(tiled_gradient, gradient):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
        for name in metrics:
            np.testing.assert_allclose(tiled_metrics[name], metrics[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", [name for name in HOW if name != "sampled"])
def test_loss_and_gradient_are_the_oracles(name):
    how = HOW[name]
    arrays, weight = example()
    value, gradient, _ = value_and_gradient(powerset.powerset_loss, arrays, weight, **how)
    regions, region_mask, phrases, phrase_mask = arrays

    def reference(regions, phrases):
        return oracle.triplet(oracle.scores(regions, region_mask, phrases, phrase_mask, **how), 0.2, weight)

    features = regions.astype(np.float64), phrases.astype(np.float64)
    assert value == pytest.approx(reference(*features), rel=1e-5)
    directions = [np.random.default_rng(9).normal(size=f.shape) for f in features]
    slope = oracle.directional_derivative(reference, features, directions)
    assert sum((g * d).sum() for g, d in zip(gradient, directions)) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("block", [dict(block=3), {}], ids=["blocks of 3", "one block"])
def test_ties_go_to_the_lowest_index_whatever_the_tile(block):
    """Texts 1, 4 and 6 are the same and the hardest of all images: row 1 takes the gradient of the others."""
    (regions, _, phrases, _), _ = example()
    regions, phrases, weight = np.abs(regions), np.abs(phrases), np.ones(7, np.float32)
    phrases[[1, 4, 6]] = 10 * phrases[1]
    arrays = regions, np.ones((7, 5), bool), phrases, np.ones((7, 6), bool)
    _, (_, gradient), _ = value_and_gradient(powerset.powerset_loss, arrays, weight, **block, **HOW["exact"])
    _, (_, dense), _ = value_and_gradient(reference.scored_loss, arrays, weight, **HOW["exact"])
    np.testing.assert_allclose(gradient, dense, rtol=0, atol=2e-6 * np.abs(dense).max())
    assert np.abs(gradient[1]).sum() > 1.5 * np.abs(gradient[np.array([4, 6])]).sum(axis=(1, 2)).max()


@pytest.mark.parametrize("how", [HOW["exact"], HOW["nla"], HOW["sampled"]], ids=["exact", "nla", "sampled"])
@pytest.mark.parametrize("empty", ["regions", "phrases", "weight", "all but one"])
def test_empty_masks_give_no_nan(how, empty):
    (regions, region_mask, phrases, phrase_mask), weight = example()
    if empty == "regions":
        region_mask[:] = False
    elif empty == "phrases":
        phrase_mask[:] = False
    else:
        weight[1 if empty == "all but one" else 0 :] = 0
    value, gradient, metrics = value_and_gradient(
        powerset.powerset_loss, (regions, region_mask, phrases, phrase_mask), weight, **how
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradient, metrics)))
    assert not np.any(gradient[0]) and not np.any(gradient[1])
    if empty in ("weight", "all but one"):
        assert value == 0


def test_zero_weight_rows_are_as_if_they_were_not_there():
    (regions, region_mask, phrases, phrase_mask), weight = example()
    kept = weight > 0
    arrays = regions, region_mask, phrases, phrase_mask
    value, gradient, _ = value_and_gradient(powerset.powerset_loss, arrays, weight, **HOW["nla"])
    fewer, fewer_gradient, _ = value_and_gradient(
        powerset.powerset_loss, [array[kept] for array in arrays], weight[kept], **HOW["nla"]
    )
    np.testing.assert_allclose(value, fewer, rtol=1e-6)
    for got, wanted in zip(gradient, fewer_gradient):
        np.testing.assert_allclose(got[kept], wanted, rtol=0, atol=1e-6)
        assert not np.any(got[~kept])


def test_bfloat16_features_are_summed_in_float32():
    (regions, region_mask, phrases, phrase_mask), weight = example()
    low = [jnp.asarray(f, jnp.bfloat16) for f in (regions, phrases)]
    value, gradient, _ = value_and_gradient(
        powerset.powerset_loss, (low[0], region_mask, low[1], phrase_mask), weight, **HOW["nla"]
    )
    same = [np.asarray(f, np.float32) for f in low]
    wanted, _, _ = value_and_gradient(
        powerset.powerset_loss, (same[0], region_mask, same[1], phrase_mask), weight, **HOW["nla"]
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert gradient[0].dtype == jnp.bfloat16 and value.dtype == jnp.float32


@pytest.mark.parametrize(
    "how, message",
    [
        (dict(method="best"), "objective.powerset.method is 'best'"),
        (dict(score_norm="max"), "objective.powerset.score_norm is 'max'"),
        (dict(direction="T1"), "objective.powerset.direction is 'T1'; choose one of both, tree_to_region, region_to"),
        (dict(temperature=0.0), "objective.powerset.temperature is 0.0"),
        (dict(method="sampled"), "rng"),
        (dict(block=0), "block 0"),
    ],
)
def test_errors_name_the_key(how, message):
    arrays, _ = example()
    with pytest.raises(ValueError, match=message):
        powerset.powerset_loss(*arrays, margin=0.2, **how)


def test_exact_refuses_too_many_regions():
    with pytest.raises(ValueError, match="at most 12 regions but there are 13"):
        powerset.region_to_tree(np.zeros((13, 2)), np.ones(13, bool), np.ones(2, bool))


def test_many_regions_need_no_enumeration():
    """nla multiplies factors in safe groups: 200 factors near one half each would vanish in a single product."""
    s = np.random.default_rng(0).choice([-1.0, 1.0], (200, 3)).astype(np.float32)
    got = soft(s, np.ones(200, bool), np.ones(3, bool), temperature=0.1)
    assert got == pytest.approx(oracle.t1(s.astype(np.float64), 0.1), rel=1e-5)


@pytest.mark.parametrize("method", ["nla", "exact"])
def test_memory_at_the_full_batch(method):
    """Issue 3: value and gradient at B = 4096, M = 10, K = 20, D = 512 in float32 within 0.6 GiB beside the arrays."""
    shapes = (4096, 10, 512), (4096, 10), (4096, 20, 512), (4096, 20)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32 if len(shape) == 3 else bool) for shape in shapes]

    def loss(regions, region_mask, phrases, phrase_mask):
        return powerset.powerset_loss(regions, region_mask, phrases, phrase_mask, margin=0.2, method=method)[0]

    compiled = jax.jit(jax.value_and_grad(loss, (0, 2))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.6 * 2**30


@pytest.mark.parametrize("method", ["nla", "exact"])
def test_the_papers_forms_give_the_same_loss_and_gradient(method):
    """Leaf-first and dense, differentiated automatically, against two sweeps; leaves are the free variables."""
    rng = np.random.default_rng(1)
    regions, leaves = rng.normal(size=(7, 5, 16)).astype(np.float32), rng.normal(size=(7, 9, 16)).astype(np.float32)
    members, region_mask = rng.random((7, 6, 9)) < 0.3, rng.random((7, 5)) < 0.8
    members[:, :5, 0] = region_mask[:, 0] = True  # the last phrase may be padding; no ties, which max would share out
    how = dict(margin=0.2, method=method, temperature=0.05)
    sums = lambda leaves: jnp.einsum("bkt,btd->bkd", members.astype(np.float32), leaves)
    losses = [
        lambda r, t: powerset.powerset_loss(r, region_mask, sums(t), members.any(-1), block=4, **how)[0],
        lambda r, t: reference.dense_loss(r, region_mask, sums(t), members.any(-1), **how),
        lambda r, t: reference.leaf_first_loss(r, region_mask, t, members, **how),
    ]
    (ours, gradient), *others = [jax.jit(jax.value_and_grad(loss, (0, 1)))(regions, leaves) for loss in losses]
    for value, other_gradient in others:
        np.testing.assert_allclose(ours, value, rtol=1e-5)
        for got, wanted in zip(gradient, other_gradient):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_single_regions_gives_ties_to_the_lowest():
    s, full = jnp.array([[1.0, 1.0], [1.0, -1.0], [-2.0, -2.0]]), (np.ones(3, bool), np.ones(2, bool))
    best, slope = jax.value_and_grad(lambda s: powerset.region_to_tree(s, *full, method="single"))(s)
    assert best == 0.0
    np.testing.assert_allclose(slope, np.array([[1, 0], [1, 0], [1, 0]]) / 3)


def test_counted_products_are_those_of_all_pairs():
    counted = operations.powerset_operations(4096, 10, 20, 512, "nla")
    assert counted.matmul == pytest.approx(2 * 4096**2 * 10 * 20 * 512, rel=0.01)
    exact = operations.powerset_operations(4096, 10, 20, 512, "exact")
    assert exact.vector == pytest.approx(2 * 2**10 * 20 * 4096**2, rel=0.1)
