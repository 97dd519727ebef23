"""From tower outputs to one loss, in two stages: `gather_features`, then `total_loss`.

Between the two lies everything that the losses know of a batch. Exact accumulation caches it: features of all slices
first, the gradient of the loss by the features, then one backward pass a slice (DESIGN section 3). What is computed is
the registry's business: every function here composes what the objectives say of themselves.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from harmopower.features import regions
from harmopower.features.vectors import normalise
from harmopower.objectives import registry
from harmopower.objectives.objective import Features, Needs, Objective, Scalars, Scale, Sizes, Towers
from harmopower.parallel import collectives


def objectives(settings: ConfigDict) -> list[Objective]:
    """All objectives with their settings.

    Args:
      settings: `config.objective`.
    """
    return [kind(settings[kind.name], settings.communication) for kind in registry.OBJECTIVES]


def switched_on(settings: ConfigDict) -> list[Objective]:
    """Those whose weight is above 0; of the others nothing is built."""
    return [objective for objective in objectives(settings) if objective.settings.weight > 0]


def active(settings: ConfigDict) -> Needs:
    """What the objectives that are switched on together ask of the batch and of the towers."""
    asked = [objective.needs() for objective in switched_on(settings)]
    return Needs(*map(max, zip(*asked, strict=True))) if asked else Needs()  # what one asks for, all get


def scales(settings: ConfigDict) -> tuple[Scale, ...]:
    """The scalars that a model of these settings learns."""
    return tuple(scale for objective in objectives(settings) for scale in objective.scales())


def loss_flops(settings: ConfigDict, sizes: Sizes, hardware: bool = False) -> dict[str, float]:
    """Matrix products of value and gradient of each objective that is switched on, by name, all devices together."""
    return {objective.name: objective.flops(sizes, hardware) for objective in switched_on(settings)}


def meetings(settings: ConfigDict, features: Features) -> dict[str, tuple[str, int]]:
    """How shards of the batch meet in each objective that is switched on and in which rows travel: by its name, "ring"
    or "gather", and the bytes a device that gathering takes. Of `features` only shapes and types are read."""
    found = {}
    for objective in switched_on(settings):
        guest = jax.eval_shape(objective.guest, features)
        if guest is not None:
            way = collectives.choose(settings.communication, guest)
            found[objective.name] = way, collectives.gathered_bytes(guest)
    return found


# --- first stage: features -----------------------------------------------------------------------------------------


def gather_features(towers: Towers, settings: ConfigDict, grid: tuple[int, int]) -> Features:
    """Reads the vectors that the objectives need from the outputs of the towers (METHOD sections 1 to 3, 5).

    Args:
      towers: outputs of the towers, and the batch.
      settings: `config.objective`.
      grid: rows and columns of patches.
    """
    asked, batch = active(settings), towers.batch
    image, text = normalise(towers.image.pooled), normalise(towers.text.pooled)
    shared = Features(image, text, jnp.asarray(batch["weight"], jnp.float32))
    if asked.regions:
        boxes = batch["boxes"], batch["box_valid"], grid, settings.region_pooling
        phi, mask = regions.pool_regions(towers.image.tokens, *boxes, batch.get("kept_patches"), towers.filled)
        shared = shared._replace(regions=phi, region_mask=mask)
    if asked.groups:
        shared = shared._replace(group=batch["box_group"])
    own = {objective.name: objective.features(towers, shared) for objective in switched_on(settings)}
    return shared._replace(own=own)


# --- second stage: the loss ----------------------------------------------------------------------------------------


def total_loss(
    features: Features, learnt: Scalars, settings: ConfigDict, step: Int[ArrayLike, ""], rng: PRNGKeyArray | None
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of the objectives that are switched on (METHOD section 7), over the global batch.

    Args:
      features: of the global batch, inside a mesh sharded on their leading axis.
      learnt: mapping of the scalars of `scales`, exponentiated where they are logarithmic.
      settings: `config.objective`.
      step: scalar, for the warm-ups and what else grows.
      rng: key, for what is drawn; None where nothing is.
    Returns:
      loss, and float32 metrics: `loss/total`, and for each active term `loss/NAME`, `weight/NAME`, `NAME/...`.
    """
    total, metrics = jnp.float32(0), {}
    for objective in switched_on(settings):
        name, weight = objective.name, warm_up(objective.settings, step)
        loss, details = objective.loss(features, {**learnt, "step": step}, rng)
        total += weight * loss
        metrics |= {f"loss/{name}": loss, f"weight/{name}": weight}
        metrics |= {f"{name}/{detail}": value for detail, value in details.items()}
    metrics["loss/total"] = total
    return total, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def warm_up(term: ConfigDict, step: Int[ArrayLike, ""]) -> Float[Array, ""]:
    """The weight of a term at a step: it grows linearly over `warmup_steps`, if there are any, then stays."""
    steps = term.get("warmup_steps", 0)
    return jnp.float32(term.weight) * (jnp.minimum((step + 1) / steps, 1) if steps else 1)
