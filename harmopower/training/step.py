"""One update: towers, objectives, gradient, optimizer. The only place where data, models and objectives meet."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harmopower.models import vision
from harmopower.models.clip import CLIP
from harmopower.objectives import total
from harmopower.objectives.objective import Features, Towers
from harmopower.parallel import mesh as meshes
from harmopower.parallel import rules
from harmopower.training import groups, teacher
from harmopower.training.state import TrainState

MAX_LOGIT_SCALE = float(np.log(100.0))  # METHOD section 4
PATCHES = 1  # folded into a step's key: what patches are drawn from is not what subsets are drawn from


def make_train_step(model: CLIP, optimizer, config, mesh, state_shardings):
    """Builds the jitted `train_step(state, batch, key) -> (state, metrics)`; the state's buffers are reused.

    Args:
      batch: the pipeline's global batch as device arrays, leading axis sharded over the batch axes.
      key: the run's random key; each step folds its number in.
    """
    rows = meshes.batch_sharding(mesh)
    step = functools.partial(_train_step, model, optimizer, config)
    return jax.jit(
        step,
        in_shardings=(state_shardings, rows, None),
        out_shardings=(state_shardings, meshes.replicated(mesh)),
        donate_argnums=0,
    )


def _train_step(model, optimizer, config, state: TrainState, batch, key):
    key = jax.random.fold_in(key, state.step)
    gradients, metrics = gradient(model, config, state.params, batch, state.step, key, teacher.of(config, state))
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics |= {name: jnp.asarray(value, jnp.float32) for name, value in _scales(model, state.params).items()}
    sound = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    state = _updated(model, optimizer, config.optimizer, state, gradients, sound)
    metrics["skipped_updates"] = 1 - sound.astype(jnp.float32)
    metrics["cut_captions"] = jnp.sum(batch["cut"]).astype(jnp.float32)
    metrics["bad_records"] = jnp.sum(batch["weight"] == 0).astype(jnp.float32)
    return state, metrics


def _updated(model: CLIP, optimizer, settings, state: TrainState, gradients, sound) -> TrainState:
    """The state after the update; all but the step as it was, where the update is not `sound`.

    Chosen leaf by leaf on the device, so that no step waits for the host, and one bad batch costs one step. The
    schedule of the learning rate stands in the optimizer's state and waits too.
    """
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
    trained = _clamp_scales(model, optax.apply_updates(groups.select(settings, state.params), updates))
    params = groups.merge(settings, state.params, trained)
    ema = _averaged(settings.ema, state.ema, params)
    before, after = (state.params, state.optimizer_state, state.ema), (params, optimizer_state, ema)
    chosen = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, before)
    return TrainState(state.step + 1, *chosen, start=state.start)


def _averaged(decay: float, ema, params):
    """The moving average with these parameters in it; None where the run keeps none.

    Written so that the average of a frozen parameter stays the parameter to the bit.
    """
    return None if ema is None else jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def gradient(model: CLIP, config, params, batch, step, key, crops_by=None):
    """The gradient of the whole loss over the global batch, by what is trained, and the metrics of METHOD section 7.

    Args:
      crops_by: the parameters whose image tower encodes crops (training/teacher.py); None: `params`.
    """
    if config.model.patch_dropout:
        # Drawn once for the global batch: every slice, and both passes over it, see the same patches.
        patch_key = jax.random.fold_in(key, PATCHES)
        filled = model.filled(batch["content"]) if "content" in batch else None
        kept = vision.draw_patches(patch_key, len(batch["weight"]), model.grid, config.model.patch_dropout, filled)
        batch = {**batch, "kept_patches": rules.constrain(kept)}
    if config.data.region_text_every > 1 and "box_tokens" in batch:
        batch = {**batch, "box_tokens": texts_in_turn(batch["box_tokens"], config.data.region_text_every, step)}
    if config.accumulate > 1:
        return _accumulated_gradient(model, config, params, batch, step, key, crops_by)

    model, trained, whole = differentiated(model, config, params)

    def loss(trained):
        params = whole(trained)
        features = encode(model, params, batch, config, crops_by)
        return total.total_loss(features, _scales(model, params), config.objective, step, key)

    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    return gradients, metrics


def differentiated(model: CLIP, config, params):
    """What the gradient is taken by (training/groups.py).

    Returns:
      the model that keeps its frozen blocks apart, the parameters that are trained, and what puts these into the whole.
    """
    settings = config.optimizer
    if settings.groups:
        model = model.clone(frozen_blocks=groups.frozen_blocks(settings, params))
    return model, groups.select(settings, params), functools.partial(groups.merge, settings, params)


def _accumulated_gradient(model, config, params, batch, step, key, crops_by):
    """The same gradient by slices: all features first, the losses' gradient by them, one backward pass a slice.

    Averaging the slices' own losses would be wrong: a contrastive loss compares every row with the whole batch.
    """
    together = config.data.region_text_every
    slices = jax.tree.map(lambda rows: _split(rows, config.accumulate, together), batch)
    model, trained, whole = differentiated(model, config, params)
    encode_slice = lambda trained, part: encode(model, whole(trained), part, config, crops_by)
    features = jax.lax.map(lambda part: encode_slice(trained, part), slices)

    def loss(features, trained):
        joined = jax.tree.map(lambda slices: _join(slices, together), features)
        return total.total_loss(joined, _scales(model, whole(trained)), config.objective, step, key)

    (_, metrics), (by_features, gradients) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)(
        features, trained
    )

    def add_slice(gradients, inputs):
        part, cotangents = inputs
        _, pull_back = jax.vjp(lambda trained: encode_slice(trained, part), trained)
        return jax.tree.map(jnp.add, gradients, pull_back(cotangents)[0]), None

    return jax.lax.scan(add_slice, gradients, (slices, by_features))[0], metrics


def _split(rows, count: int, together: int):
    # Slice k takes the groups k, k + count, ... of rows that stay together: every device keeps its own rows.
    groups = rows.reshape(-1, count, together, *rows.shape[1:])
    return jnp.moveaxis(groups, 1, 0).reshape(count, -1, *rows.shape[1:])


def _join(slices, together: int):
    groups = slices.reshape(len(slices), -1, together, *slices.shape[2:])
    return jnp.moveaxis(groups, 0, 1).reshape(-1, *slices.shape[2:])


def texts_in_turn(ids, every: int, step):
    """Region texts `[B, R, S]` of one image in `every`, another one of them each step; those of the others are 0.

    Neighbouring groups of `every` are a place apart: records that are stored as each other's negatives, such as the
    four siblings of the embedded scenes, would else always meet the same ones of themselves.
    """
    place = jnp.arange(len(ids))
    turn = (place + place // every) % every == step % every
    return jnp.where(turn[:, None, None], ids, 0)


def encode(model: CLIP, params, batch, config, crops_by=None) -> Features:
    """Runs both towers on the rows of `batch` and gathers what the active objectives compare; see `gradient`."""
    objective = config.objective
    apply = functools.partial(_apply, model, params)
    image = apply(batch["image"], batch.get("kept_patches"), batch.get("content"), method="encode_image")
    text = apply(batch["tokens"], method="encode_text")
    needs, extra, ends = total.active(objective), {}, 1
    if "content" in batch:
        extra["filled"] = model.filled(batch["content"])
        ends = batch["content"] / jnp.array(model.shape)
    if "box_tokens" in batch:  # for an objective that compares them, or for regions that have no other words
        encode_text = functools.partial(apply, method="encode_text")
        extra["region_text"] = _region_texts(encode_text, batch["box_tokens"], config.data.region_text_every)
        extra["region_text_content"] = content_tokens(batch["box_tokens"], model.eot_id)
    if needs.crops:
        tower = teacher.at_side(model, teacher.without_gradient(params, crops_by), needs.crop_size)
        encode_image = lambda crops: _apply(*tower, crops, method="encode_image").pooled
        boxes = batch["boxes"][:, : teacher.crop_rows(config.data)]
        how = needs.crop_chunk, needs.crop_size, ends
        extra["crops"] = teacher.encode_crops(encode_image, batch["image"], boxes, *how)
    return total.gather_features(Towers(image, text, batch, **extra), objective, model.grid)


def _apply(model: CLIP, params, *inputs, method: str) -> Any:
    """Calls a method of the model. Flax's own `apply` is typed as if it could return changed parameters too."""
    return model.apply({"params": params}, *inputs, method=method)


def _region_texts(encode_text, ids, every: int):
    """Encodes the texts `[B, R, S]` of which one image in `every` has any; each group's rows get what the one has."""
    shared = ids.reshape(-1, every, *ids.shape[1:]).sum(1)
    # The rows that have no text of their own have no content tokens either, so no loss reads what they get here.
    return jax.tree.map(lambda rows: jnp.repeat(rows, every, axis=0), _each(encode_text, shared))


def _each(encoder, inputs):
    """Encodes `[B, M, ...]` inputs one by one: outputs `[B, M, ...]`."""
    encoded = encoder(inputs.reshape(-1, *inputs.shape[2:]))
    return jax.tree.map(lambda rows: rows.reshape(*inputs.shape[:2], *rows.shape[1:]), encoded)


def content_tokens(ids, eot_id: int):
    """Which tokens of `[..., S]` lie between start and end; none in a row that is all padding."""
    end = jnp.argmax(ids == eot_id, axis=-1, keepdims=True)
    place = jnp.arange(ids.shape[-1])
    return (place > 0) & (place < end)


def _scales(model: CLIP, params) -> dict:
    return _apply(model, params, method="scales")


def _clamp_scales(model: CLIP, params):
    logarithmic = (name for name, _, logarithmic in model.learnt if logarithmic and name in params)  # not the frozen
    return {**params, **{name: jnp.minimum(params[name], MAX_LOGIT_SCALE) for name in logarithmic}}
