"""Every choice of negatives, in tiles, against a dense float64 form; shards: the file beside this one."""

import jax
import jax.numpy as jnp
import mines
from mines import MENDS
import numpy as np
import oracle
import pytest
from test_powerset import example as powerset_example

from harmopower.config import get_config
from harmopower.models.clip import Encoded
from harmopower.objectives import powerset, total
from harmopower.objectives.mining import SHARE, Mining
from harmopower.objectives.objective import Features, Sizes, Towers


@pytest.mark.parametrize("name", MENDS)
@pytest.mark.parametrize("block", [None, 3], ids=["one tile", "tiles of 3"])
def test_value_and_gradient_are_those_of_the_dense_form(name, block):
    """Random batches full of ties, with rows that have no weight or no negative below their own pair."""
    for seed in range(8):
        value, metrics = mines.agree(MENDS[name], mines.example(seed=seed), block=block)
        assert value > 0 and all(np.isfinite(list(metrics.values())))


@pytest.mark.parametrize("name", MENDS)
def test_batches_in_which_nothing_can_be_chosen(name):
    image, text, weight = mines.example()
    alone = np.where(np.arange(len(weight)) == 1, 1, 0).astype(np.float32)
    for arrays in ((image, text, 0 * weight), (image, text, alone), (0 * image, text, weight)):
        value, metrics = mines.agree(MENDS[name], arrays)
        assert all(np.isfinite(list(metrics.values())))
        assert value == 0 or (arrays[2] is weight and name != "semi_hard")


def test_the_spread_of_nearly_equal_scores_keeps_its_digits():
    """Scores of 300 that differ by 1 here and there: the last digit of their squares in float32 is a tenth of it."""
    image, text, weight = mines.example()
    image, text = 0 * image, 0 * text
    image[:, 0], text[:, 0] = 300, 1
    image[::4, 1] = text[::3, 1] = 1
    (_, metrics), _ = mines.program(MENDS["hardest"], block=3)(image, text, np.float32(1), weight, None)
    spread = mines.expected(image, text, weight, MENDS["hardest"])[2]
    assert metrics["spread"] == pytest.approx(spread, rel=1e-4) and 0.2 < spread < 0.5


def test_metrics_tell_of_the_hardest_that_was_taken():
    image, text, weight = mines.example()
    x = (image @ text.T).astype(np.float64)
    for name, mining in MENDS.items():
        offered = mines.offer(mining, len(weight))
        gaps = []
        for matrix in (x, x.T):
            taken = {i: mines.chosen(matrix, i, weight, offered, mining)[:1] for i in np.flatnonzero(weight)}
            rows = [i for i, hard in taken.items() if hard]
            gaps.append(np.average([matrix[i, i] - matrix[i, taken[i][0]] for i in rows], weights=weight[rows]))
        _, metrics = mines.agree(mining, (image, text, weight))
        assert metrics["gap"] == pytest.approx(np.mean(gaps), rel=1e-5), name
        assert name != "semi_hard" or metrics["gap"] > 0 > mines.agree(MENDS["hardest"], mines.example())[1]["gap"]


@pytest.mark.parametrize("name", ["semi_hard", "softmax"])
def test_the_powerset_takes_them_as_any_score_does(name):
    """The loss and its slope along a direction are those of the float64 scores of all pairs."""
    (regions, region_mask, phrases, phrase_mask), weight = powerset_example()
    mining, how = MENDS[name], dict(method="nla", temperature=0.05)
    scale = np.float32(mines.SCALE) if mining.loss == "softmax" else None

    def ours(regions, phrases):
        rows = dict(margin=mines.MARGIN, weight_rows=weight, block=3, mining=mining, scale=scale)
        return powerset.powerset_loss(regions, region_mask, phrases, phrase_mask, **rows, **how)[0]

    def wanted(regions, phrases):
        scores = oracle.scores(regions, region_mask, phrases, phrase_mask, **how)
        return mines.dense(scores, weight, mining)[0]

    value, gradient = jax.jit(jax.value_and_grad(ours, (0, 1)))(regions, phrases)
    features = regions.astype(np.float64), phrases.astype(np.float64)
    assert value == pytest.approx(wanted(*features), rel=1e-5) and value > 0
    directions = [np.random.default_rng(9).normal(size=side.shape) for side in features]
    slope = oracle.directional_derivative(wanted, features, directions)
    assert sum((g * d).sum() for g, d in zip(gradient, directions)) == pytest.approx(slope, rel=1e-4)


def test_the_largest_array_is_a_tile():
    """No matrix of 64 x 64 scores where tiles have 8 rows."""
    rows = jax.ShapeDtypeStruct((64, mines.WIDTH), jnp.float32)
    weight, scale = jax.ShapeDtypeStruct((64,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    for mining in MENDS.values():
        offered = jax.ShapeDtypeStruct((64,), bool) if mining.negatives == "hardest_of" else None
        text = mines.program(mining, block=8).lower(rows, rows, scale, weight, offered).as_text()
        assert "tensor<8x8xf32>" in text and "tensor<64x64x" not in text


def test_the_share_grows_to_the_whole_and_is_a_function_of_seed_and_step():
    mining, key = Mining("hardest_of", negative_share_steps=100), jax.random.key(0)
    shares = [mining.offered(4000, step, key).mean() for step in (0, 24, 49, 99, 10_000)]
    assert shares == pytest.approx([0.01, 0.25, 0.5, 1, 1], abs=0.03) and shares[3:] == [1, 1]
    again = mining.offered(4000, 24, key)
    np.testing.assert_array_equal(again, jax.jit(mining.offered, static_argnums=0)(4000, jnp.int32(24), key))
    assert (again != mining.offered(4000, 24, jax.random.key(1))).any()
    assert (again != (jax.random.uniform(key, (4000,)) < 0.25)).any(), f"not the step's own key but {SHARE} folded in"


def powerset_term(**settings):
    """The settings of a loss that is the powerset alone, and features of it."""
    terms = get_config().objective
    for name in total.registry.OBJECTIVES:
        terms[name.name].weight = float(name.name == "powerset")
    terms.powerset.update(settings)
    (regions, region_mask, phrases, phrase_mask), weight = powerset_example()
    own = {"powerset": {"phrases": jnp.asarray(phrases), "mask": jnp.asarray(phrase_mask)}}
    return terms, Features(None, None, jnp.asarray(weight), jnp.asarray(regions), jnp.asarray(region_mask), None, own)


def test_settings_reach_the_loss():
    """Softmax learns one over its temperature; the share follows the step; the default is the paper's form."""
    terms, features = powerset_term()
    paper = total.total_loss(features, {}, terms, 0, None)[1]["loss/powerset"]
    assert [scale.name for scale in total.scales(terms)] == ["logit_scale"]
    terms, _ = powerset_term(negatives="hardest_of", negative_share_steps=50)
    late, early = (total.total_loss(features, {}, terms, step, jax.random.key(0))[1] for step in (49, 0))
    assert late["loss/powerset"] == paper and early["powerset/active"] < late["powerset/active"]
    terms, _ = powerset_term(negatives="top_k", top_k=2, loss="softmax")
    _, scale = total.scales(terms)
    by_scale = jax.grad(lambda s: total.total_loss(features, {scale.name: s}, terms, 0, None)[0])(np.exp(scale.start))
    assert scale.logarithmic and np.exp(scale.start) == pytest.approx(5) and by_scale != 0


def test_single_tokens_are_the_words_of_the_phrases():
    """`words=tokens` sees the tokens of phrases of two and more, one by one; its counted work is that of T phrases."""
    tokens = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    members = np.array([[[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]], bool)
    terms, features = powerset_term(words="tokens")
    (term,) = total.switched_on(terms)
    own = term.features(Towers(None, Encoded(None, tokens), {"phrases": members}), features)
    np.testing.assert_array_equal(own["mask"], [[True, True, False, True]])
    np.testing.assert_allclose(own["phrases"], tokens / np.linalg.norm(tokens, axis=-1, keepdims=True), rtol=1e-5)
    sizes = Sizes(batch=8, regions=3, phrases=5, tokens=7, width=8, text_rows=3)
    assert term.pooled(sizes) == 0 and term.flops(sizes) == powerset.matrix_products(8, 3, 7, 8, 0)


@pytest.mark.parametrize(
    "mining, scale, message",
    [
        (dict(negatives="all"), None, "objective.powerset.negatives is 'all'; choose one of hardest, semi_hard"),
        (dict(loss="hinge"), None, "objective.powerset.loss is 'hinge'; choose one of triplet, softmax"),
        (dict(negatives="top_k", loss="softmax"), None, "objective.powerset.loss is 'softmax' and scale None"),
        (dict(), 1.0, "objective.powerset.loss is 'triplet' and scale 1.0"),
    ],
)
def test_errors_name_the_key(mining, scale, message):
    arrays, _ = powerset_example()
    with pytest.raises(ValueError, match=message):
        powerset.powerset_loss(*arrays, margin=0.2, mining=Mining(**mining), scale=scale)
    with pytest.raises(ValueError, match="'hardest_of' draws rows but rng is None"):
        Mining("hardest_of", negative_share_steps=1).offered(4, 0, None)
