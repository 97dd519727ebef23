"""AdamW as CLIP uses it: warm-up, cosine, clipping, and no decay on gains, biases and temperatures."""
import jax
import optax

# Radford et al. 2021, section 2.5: weights are decayed that are not gains or biases.
UNDECAYED = ("bias", "scale", "class_token", "logit_scale", "logit_bias", "region_scale")


def make_schedule(config) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine down to 0 at `total_steps`."""
    rate, warmup = config.optimizer.learning_rate, config.optimizer.warmup_steps
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, config.total_steps)


def make_optimizer(config) -> optax.GradientTransformation:
    """The optimizer of a run's config; `clip_norm` 0 switches clipping off."""
    settings = config.optimizer
    adamw = optax.adamw(
        make_schedule(config), settings.b1, settings.b2, settings.epsilon, weight_decay=settings.weight_decay,
        mask=decay_mask,
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw) if settings.clip_norm else adamw


def decay_mask(params):
    """True for the parameters that weight decay touches."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path) not in UNDECAYED, params)


def _name(path) -> str:
    return [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)][-1]
