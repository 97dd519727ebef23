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


@flax.struct.dataclass
class TrainState:
    """Everything that an update changes.

    Attributes:
      step: the updates done.
      ema: the moving average of the parameters (`optimizer.ema`), sharded as they are; None where there is none.
    """

    step: jax.Array
    params: dict
    optimizer_state: optax.OptState
    ema: dict | None = None


def _start(model: CLIP, key):
    images = jnp.zeros((1, model.image_size, model.image_size, 3), jnp.uint8)
    return dict(model.init(key, images, jnp.zeros((1, model.context_length), jnp.int32))["params"])


def shapes(model: CLIP):
    """Shapes and types of the parameters, without computing them."""
    return jax.eval_shape(lambda: nn.unbox(_start(model, jax.random.key(0))))


def _initialise(model: CLIP, optimizer, key, ema: bool = False) -> TrainState:
    params = _start(model, key)
    average = jax.tree.map(jnp.copy, params) if ema else None  # it starts where the parameters start
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def shardings(model: CLIP, optimizer, mesh, ema: bool = False):
    """How each leaf of the state lies on `mesh`: the rules table applied to the parameters' logical axes.

    Raises:
      ConfigError: an axis of the mesh does not divide a parameter; the text names axis, sizes and key.
    """
    boxed = jax.eval_shape(lambda: _initialise(model, optimizer, jax.random.key(0), ema))
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed.params, is_leaf=is_box):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rules.check_divides(name, leaf.value.shape, leaf.names, mesh)
    # optax hides parameters inside their boxes; flax would give what is hidden, and the empty nodes, a sharding too.
    bare = jax.tree.map(lambda leaf: leaf if jax.tree.leaves(leaf) else nn.unbox(leaf), boxed, is_leaf=is_box)
    to_sharding = lambda names: spmd.logical_to_mesh_sharding(names, mesh, rules.LOGICAL_AXIS_RULES)
    return jax.tree.map(to_sharding, nn.get_partition_spec(bare), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def create(model: CLIP, optimizer, mesh, seed: int, ema: bool = False) -> TrainState:
    """Initialises the state straight into its shards, so that no device ever holds a whole large model."""
    where = shardings(model, optimizer, mesh, ema)
    start = jax.jit(lambda key: nn.unbox(_initialise(model, optimizer, key, ema)), out_shardings=where)
    return start(jax.random.key(seed))


def abstract(model: CLIP, optimizer, mesh, ema: bool = False) -> TrainState:
    """Shapes, types and shardings of the state, without computing it; what a checkpoint is restored into."""
    shapes = jax.eval_shape(lambda: nn.unbox(_initialise(model, optimizer, jax.random.key(0), ema)))
    where = shardings(model, optimizer, mesh, ema)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, where)


def starting_from(params, state: TrainState) -> TrainState:
    """A fresh state with other parameters in place, from which the average starts too."""
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)  # its own buffers: those of both are donated
    return dataclasses.replace(state, params=params, ema=ema)
