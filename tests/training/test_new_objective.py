"""A new objective is a class, its settings and an entry of the registry: this one trains without any other change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmopower import config as configs
from harmopower.config import Real, Setting
from harmopower.data import pipeline
from harmopower.models import clip
from harmopower.objectives import registry, total
from harmopower.objectives.objective import Needs, Objective, Scale
from harmopower.parallel import mesh as meshes
from harmopower.training import accounting
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps

ROWS = 8


class Spread(Objective):
    """Pulls the texts' tokens together: own features of the batch, a need, a scale, counted work."""

    name = "spread"

    def needs(self):
        return Needs(phrases=True)

    def features(self, towers, shared):
        return {"mean": towers.text.tokens.astype(jnp.float32).mean(1)}

    def loss(self, features, scales, rng):
        mean = features.own[self.name]["mean"]
        distance = jnp.square(mean - self.settings.target * mean.mean(0)).sum(-1).mean()
        return scales["spread_scale"] * distance, {"distance": distance}

    def scales(self):
        return (Scale("spread_scale", 0.0),)

    def flops(self, sizes, hardware=False):
        return 2.0 * sizes.batch * sizes.width


@pytest.fixture
def config(monkeypatch):
    """A run of the new objective and the global one."""
    monkeypatch.setattr(registry, "OBJECTIVES", (*registry.OBJECTIVES, Spread))
    monkeypatch.setitem(configs.SETTINGS, "objective.spread.weight", Setting(0.5, Real(0, 1e3), "how much"))
    monkeypatch.setitem(configs.SETTINGS, "objective.spread.target", Setting(1.0, Real(0, 1), "where to"))
    config = configs.get_config()
    config.batch_size, config.total_steps, config.optimizer.warmup_steps = ROWS, 10, 0
    config.data.update(dict(image_size=32, context_length=8, max_phrases=2, max_boxes=2))
    config.model.preset = "patch16-shared16-vision16x1x1-text16x1x1"
    config.objective.lexeme_region.weight = config.objective.powerset.weight = 0.0
    return config


@pytest.fixture
def parts(config):
    """Model, batch and mesh."""
    configs.validate(config, 1)
    model = clip.from_config(config, 64, 63, total.scales(config.objective))
    needs = total.active(config.objective)
    assert needs.phrases and not needs.regions
    batch = pipeline.empty_batch(config.data, ROWS, grid=model.grid, region_text=needs.region_text)
    rng = np.random.default_rng(0)
    batch["image"] = rng.integers(0, 256, batch["image"].shape).astype(np.uint8)
    batch["tokens"] = rng.integers(1, 64, batch["tokens"].shape).astype(np.int32)
    batch["weight"] = np.ones(ROWS, np.float32)
    return model, jax.tree.map(jnp.asarray, batch), meshes.make_mesh(devices=jax.devices()[:1])


def test_a_new_objective_trains_a_step(config, parts):
    model, batch, mesh = parts
    optimizer = optimizers.make_optimizer(config)
    with jax.set_mesh(mesh):
        state = states.create(model, optimizer, mesh, 0)
        before = float(state.params["spread_scale"])
        train_step = steps.make_train_step(model, optimizer, config, mesh, states.shardings(model, optimizer, mesh))
        state, metrics = train_step(state, batch, jax.random.key(0))
    assert metrics["loss/spread"] > 0 and metrics["weight/spread"] == 0.5 and metrics["spread/distance"] > 0
    assert metrics["loss/total"] == pytest.approx(
        float(metrics["loss/global_contrastive"] + 0.5 * metrics["loss/spread"]), rel=1e-5
    )
    assert float(state.params["spread_scale"]) < before == 0.0
    assert accounting.step_flops(config)["spread"] == 2 * ROWS * 16
    assert not optimizers.decay_mask(state.params)["spread_scale"]


@pytest.mark.slow
def test_its_features_are_cached_for_exact_accumulation(config, parts):
    model, batch, mesh = parts
    params = nn.unbox(model.init(jax.random.key(0), batch["image"], batch["tokens"])["params"])

    def gradient(accumulate):
        config.accumulate = accumulate
        with jax.set_mesh(mesh):
            return jax.jit(lambda params: steps.gradient(model, config, params, batch, 0, jax.random.key(0)))(params)

    (whole, metrics), (sliced, sliced_metrics) = gradient(1), gradient(2)
    assert sliced_metrics["loss/spread"] == pytest.approx(float(metrics["loss/spread"]), rel=1e-5)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, whole, sliced))
    assert difference <= 1e-5 * optax.tree.norm(whole)
