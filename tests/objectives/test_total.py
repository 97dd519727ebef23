"""From tower outputs to one loss: which features are built, what weights and warm-ups do, and empty batches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.config import get_config
from harmopower.features import phrases as phrase_features
from harmopower.features import regions as region_features
from harmopower.objectives import contrastive, region, total
from harmopower.objectives.objective import Needs, Towers
from tools import reference

ROWS, REGIONS, PHRASES, TOKENS, OWN, WIDTH, GRID = 4, 3, 5, 9, 6, 16, (4, 4)
SCALES = {name: jnp.float32(value) for name, value in (("logit_scale", 10), ("logit_bias", -5), ("region_scale", 3))}
SCALES["global_region_scale"] = jnp.float32(2)


def objective(**weights):
    """The default objective with the weights given; terms not named are off."""
    terms = get_config().objective
    for name in ("global_contrastive", "lexeme_region", "global_region", "powerset"):
        terms[name].weight = weights.get(name, 0.0)
    return terms


def tower(rng, *shape, tokens):
    pooled, dense = rng.normal(size=shape + (WIDTH,)), rng.normal(size=shape + (tokens, WIDTH))
    return types.SimpleNamespace(pooled=jnp.float32(pooled), tokens=jnp.float32(dense))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((ROWS, REGIONS, 2, 2)), axis=2)
    batch = dict(
        weight=np.array([1, 1, 0, 1], np.float32),
        boxes=corners.reshape(ROWS, REGIONS, 4).astype(np.float32),
        box_valid=np.arange(REGIONS) < np.array([3, 2, 3, 1])[:, None],
        phrases=rng.random((ROWS, PHRASES, TOKENS)) < 0.4,
        box_phrase=np.array([[0, 1, -1]] * ROWS, np.int32),
        box_group=rng.integers(0, 4, (ROWS, REGIONS)).astype(np.int32),
    )
    batch["phrases"][:, 1] = np.arange(TOKENS) == 3  # a lexeme of one token
    batch["phrases"][:, 4] = False  # padding
    content = np.arange(OWN) < np.array([2, 0, 3])[:, None] * np.ones((ROWS, 1, 1), int)
    texts = dict(region_text=tower(rng, ROWS, REGIONS, tokens=OWN), region_text_content=content)
    return tower(rng, ROWS, tokens=16), tower(rng, ROWS, tokens=TOKENS), batch, texts


def features_of(inputs, terms, **changed):
    image_tower, text_tower, batch, texts = inputs
    return total.gather_features(Towers(image_tower, text_tower, {**batch, **changed}, **texts), terms, GRID)


def test_only_what_is_needed_is_built(inputs):
    terms = objective(**{"global_contrastive": 1.0})
    assert not any(total.active(terms))
    built = {name for name, value in features_of(inputs, terms)._asdict().items() if value is not None}
    assert built == {"image", "text", "weight", "own"} and not features_of(inputs, terms).own["global_contrastive"]
    _loss, metrics = total.total_loss(features_of(inputs, terms), SCALES, terms, 0, None)
    assert {name for name in metrics if name.startswith("loss/")} == {"loss/total", "loss/global_contrastive"}
    assert total.active(objective(powerset=1.0)) == Needs(regions=True, phrases=True)
    assert total.active(objective(lexeme_region=1.0)) == Needs(True, True, True, alone_text=True)
    assert total.active(objective(lexeme_region=1.0, global_region=1.0)) == Needs(True, True, True, True, True)


def test_phrases_are_sums_of_leaves_and_single_tokens_are_only_lexemes(inputs):
    features = features_of(inputs, objective(powerset=1.0, lexeme_region=1.0))
    powerset_own, lexemes = features.own["powerset"], features.own["lexeme_region"]["lexemes"]
    tokens, phrases = np.asarray(inputs[1].tokens), inputs[2]["phrases"]
    leaves = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_array_equal(powerset_own["mask"], phrases.sum(-1) >= 2)
    assert not powerset_own["mask"][:, 1].any()
    np.testing.assert_allclose(powerset_own["phrases"][0, 0], leaves[0][phrases[0, 0]].sum(0), atol=1e-5)
    np.testing.assert_allclose(lexemes[0, 1], leaves[0, 3], atol=1e-5)
    unit, _ = phrase_features.sum_phrases(inputs[1].tokens, phrases, "unit")
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), phrases.sum(-1) >= 2, atol=1e-5)


def test_a_region_without_a_span_uses_the_content_of_its_own_text(inputs):
    terms = objective(lexeme_region=1.0)
    found = features_of(inputs, terms).own["lexeme_region"]
    assert not found["mask"][:, 2].any()  # data that have no such region pay for no pass
    alone = inputs[2]["box_phrase"] < 0
    features = features_of(inputs, terms, box_alone=alone)
    found = features.own["lexeme_region"]
    own = np.asarray(inputs[3]["region_text"].tokens)[0, 2, :3].mean(0)
    np.testing.assert_allclose(found["lexemes"][0, 2], own / np.linalg.norm(own), atol=1e-5)
    assert found["mask"].all()
    # Spans and own texts are candidates of each other, in one loss.
    valid = np.asarray(features.region_mask) & (np.asarray(features.weight) > 0)[:, None]
    assert (valid & alone).any() and (valid & ~alone).any()
    rows = features.regions[valid], found["lexemes"][valid], np.ones(valid.sum(), bool), features.group[valid]
    together = region.pair_loss(*rows, 10.0)[0]
    assert total.total_loss(features, SCALES, terms, 0, None)[0] == pytest.approx(float(together), rel=1e-5)
    lexemes, mask = phrase_features.pool_lexemes(inputs[1].tokens, inputs[2]["phrases"], inputs[2]["box_phrase"])
    np.testing.assert_array_equal(mask, [[True, True, False]] * ROWS)
    assert not np.any(lexemes[:, 2])


def test_the_loss_is_the_weighted_sum_of_its_terms(inputs):
    weights = {"global_contrastive": 1.0, "lexeme_region": 0.3, "global_region": 0.2, "powerset": 0.1}
    terms = objective(**weights)
    features = features_of(inputs, terms)
    loss, metrics = jax.jit(lambda features: total.total_loss(features, SCALES, terms, 0, None))(features)
    parts = {name: metrics[f"loss/{name}"] for name in weights}
    assert loss == pytest.approx(float(sum(weights[name] * parts[name] for name in weights)), rel=1e-6)
    softmax = contrastive.softmax_loss(features.image, features.text, 10.0, weight_rows=features.weight)[0]
    assert parts["global_contrastive"] == pytest.approx(float(softmax), rel=1e-6)
    kept = np.array([0, 1, 3])
    dense = reference.scored_loss(
        features.regions[kept],
        features.region_mask[kept],
        features.own["powerset"]["phrases"][kept],
        features.own["powerset"]["mask"][kept],
        margin=0.2,
    )
    assert parts["powerset"] == pytest.approx(float(dense[0]), rel=1e-5)
    targets = features.own["global_region"]
    valid = np.asarray(features.region_mask & targets["mask"]) & (np.arange(ROWS) != 2)[:, None]
    aligned = region.pair_loss(
        features.regions[valid], targets["targets"][valid], np.ones(valid.sum(), bool), features.group[valid], 10.0
    )
    assert parts["global_region"] == pytest.approx(float(aligned[0]), rel=1e-5)
    assert metrics["global_region/active"] == pytest.approx(valid.sum() / np.asarray(features.region_mask).sum())
    assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())


def test_warm_up_grows_linearly_and_stays(inputs):
    term = objective(powerset=0.2).powerset
    term.warmup_steps = 4
    assert [float(total.warm_up(term, step)) for step in (0, 1, 3, 9)] == pytest.approx([0.05, 0.1, 0.2, 0.2])


def test_switches_reach_the_losses(inputs):
    terms = objective(**{"global_contrastive": 1.0, "lexeme_region": 1.0, "global_region": 1.0})
    features = features_of(inputs, terms)
    plain = total.total_loss(features, SCALES, terms, 0, None)[1]
    terms.lexeme_region.temperature, terms.lexeme_region.duplicates = "own", "ignore"
    terms.global_contrastive.kind = "sigmoid"
    changed = total.total_loss(features, SCALES, terms, 0, None)[1]
    for name in ("loss/global_contrastive", "loss/lexeme_region"):
        assert abs(changed[name] - plain[name]) > 1e-3
    assert changed["loss/global_region"] == plain["loss/global_region"]


def test_global_region_has_a_temperature_and_duplicates_of_its_own(inputs):
    terms = objective(lexeme_region=1.0, global_region=1.0)
    features = features_of(inputs, terms)
    found = [total.total_loss(features, SCALES, terms, 0, None)[1]]
    for switch, value in (("temperature", "own"), ("duplicates", "ignore")):
        terms.global_region[switch] = value
        found.append(total.total_loss(features, SCALES, terms, 0, None)[1])
    assert len({float(metrics["loss/lexeme_region"]) for metrics in found}) == 1
    assert len({float(metrics["loss/global_region"]) for metrics in found}) == 3


def test_each_objective_declares_what_it_learns():
    terms = objective()
    assert [scale.name for scale in total.scales(terms)] == ["logit_scale"]
    terms.global_contrastive.kind = "sigmoid"
    terms.lexeme_region.temperature = terms.global_region.temperature = "own"
    names = [scale.name for scale in total.scales(terms)]
    assert names == ["logit_scale", "logit_bias", "region_scale", "global_region_scale"]
    assert [scale.name for scale in total.scales(terms) if not scale.logarithmic] == ["logit_bias"]


def test_communication_reaches_every_loss_that_compares_rows(inputs):
    for name in ("global_contrastive", "lexeme_region", "global_region", "powerset"):
        terms = objective(**{name: 1.0})
        terms.communication = "star"
        with pytest.raises(ValueError, match="objective.communication is 'star'"):
            total.total_loss(features_of(inputs, terms), SCALES, terms, 0, None)
    terms.global_contrastive.kind, terms.global_contrastive.weight = "sigmoid", 1.0
    with pytest.raises(ValueError, match="objective.communication"):
        total.total_loss(features_of(inputs, terms), SCALES, terms, 0, None)


def test_crop_mode_uses_the_crops(inputs):
    image_tower, text_tower, batch, _ = inputs
    terms = objective(global_region=1.0)
    terms.global_region.mode = "crop"
    terms.global_region.update({"teacher": "ema", "crop_chunk": 4, "crop_size": 32})
    asked = Needs(regions=True, groups=True, crops=True, teacher="ema", crop_chunk=4, crop_size=32)
    assert total.active(terms) == asked
    terms.lexeme_region.weight, terms.lexeme_region.temperature = 1.0, "shared"
    assert total.active(terms) == asked._replace(phrases=True, alone_text=True)
    terms.lexeme_region.weight = 0.0
    with pytest.raises(ValueError, match="no crop embeddings"):
        total.gather_features(Towers(image_tower, text_tower, batch), terms, GRID)
    phi, mask = region_features.pool_regions(image_tower.tokens, batch["boxes"], batch["box_valid"], GRID, "cover")
    for count in (phi.shape[1], 1):  # all regions, or the first one alone
        features = total.gather_features(Towers(image_tower, text_tower, batch, crops=2 * phi[:, :count]), terms, GRID)
        np.testing.assert_array_equal(features.own["global_region"]["mask"], mask[:, :count])
        loss, metrics = total.total_loss(features, SCALES, terms, 0, None)
        assert loss == pytest.approx(0, abs=1e-6)
        assert metrics["global_region/pairs"] == (mask[:, :count] & (features.weight > 0)[:, None]).sum()


def test_a_batch_without_pairs_has_finite_gradients(inputs):
    image_tower, text_tower, batch, _ = inputs
    terms = objective(**{"global_contrastive": 1.0, "lexeme_region": 1.0, "powerset": 1.0})

    @jax.jit
    def gradients_of(pooled, tokens, batch):
        def loss(pooled, tokens):
            image_tower = types.SimpleNamespace(pooled=pooled, tokens=tokens)
            features = total.gather_features(Towers(image_tower, text_tower, batch), terms, GRID)
            return total.total_loss(features, SCALES, terms, 0, None)

        return jax.grad(loss, (0, 1), has_aux=True)(pooled, tokens)

    for emptied in ("box_valid", "phrases", "weight"):
        nothing = {**batch, emptied: np.zeros_like(batch[emptied])}
        gradients, metrics = gradients_of(image_tower.pooled, image_tower.tokens, nothing)
        assert metrics["loss/lexeme_region"] == metrics["loss/powerset"] == 0
        assert not np.any(gradients[1])
        assert np.isfinite(gradients[0]).all()
