"""The state of a run: step, parameters, optimizer state, born in shards."""

import dataclasses

import flax.linen as nn
from flax.linen import spmd
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import optax

from harmopower.models.clip import CLIP
from harmopower.parallel import rules
from harmopower.training import teacher


@flax.struct.dataclass
class TrainState:
    """Everything that an update changes.

    Attributes:
      step: the updates done.
      ema: the moving average of the parameters (`optimizer.ema`), sharded as they are; None where there is none.
      start: the image tower that the run starts from, where crops are encoded by it (training/teacher.py); the same.
    """

    step: jax.Array
    params: dict
    optimizer_state: optax.OptState
    ema: dict | None = None
    start: dict | None = None


def _start(model: CLIP, key):
    images = jnp.zeros((1, *model.shape, 3), jnp.uint8)
    return dict(model.init(key, images, jnp.zeros((1, model.context_length), jnp.int32))["params"])


def shapes(model: CLIP):
    """Shapes and types of the parameters, without computing them."""
    return jax.eval_shape(lambda: nn.unbox(_start(model, jax.random.key(0))))


def _initialise(model: CLIP, optimizer, key, ema: bool, start: bool) -> TrainState:
    params = _start(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), **_copies(params, ema, start))


def _copies(params, ema: bool, start: bool) -> dict:
    """What starts where the parameters start, in buffers of its own: a step donates those of both."""
    copied = lambda tree: jax.tree.map(jnp.copy, tree)
    return {
        "ema": copied(params) if ema else None,
        "start": copied({teacher.TOWER: params[teacher.TOWER]}) if start else None,
    }


def shardings(model: CLIP, optimizer, mesh, ema: bool = False, start: bool = False):
    """How each leaf of the state lies on `mesh`: the rules table applied to the parameters' logical axes.

    Args:
      ema, start: whether the state has these parts, as `teacher.kept` says of a config.

    Raises:
      ConfigError: an axis of the mesh does not divide a parameter; the text names axis, sizes and key.
    """
    boxed = jax.eval_shape(lambda: _initialise(model, optimizer, jax.random.key(0), ema, start))
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed.params, is_leaf=is_box):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rules.check_divides(name, leaf.value.shape, leaf.names, mesh)
    # optax hides parameters inside their boxes; flax would give what is hidden, and the empty nodes, a sharding too.
    bare = jax.tree.map(lambda leaf: leaf if jax.tree.leaves(leaf) else nn.unbox(leaf), boxed, is_leaf=is_box)
    to_sharding = lambda names: spmd.logical_to_mesh_sharding(names, mesh, rules.LOGICAL_AXIS_RULES)
    return jax.tree.map(to_sharding, nn.get_partition_spec(bare), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def create(model: CLIP, optimizer, mesh, seed: int, ema: bool = False, start: bool = False) -> TrainState:
    """Initialises the state straight into its shards, so that no device ever holds a whole large model."""
    where = shardings(model, optimizer, mesh, ema, start)
    initialise = jax.jit(lambda key: nn.unbox(_initialise(model, optimizer, key, ema, start)), out_shardings=where)
    return initialise(jax.random.key(seed))


def abstract(model: CLIP, optimizer, mesh, ema: bool = False, start: bool = False) -> TrainState:
    """Shapes, types and shardings of the state, without computing it; what a checkpoint is restored into."""
    shapes = jax.eval_shape(lambda: nn.unbox(_initialise(model, optimizer, jax.random.key(0), ema, start)))
    where = shardings(model, optimizer, mesh, ema, start)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, where)


def starting_from(params, state: TrainState) -> TrainState:
    """A fresh state with other parameters in place, from which the average starts too, and which teach crops."""
    copies = _copies(params, state.ema is not None, state.start is not None)
    return dataclasses.replace(state, params=params, **copies)
