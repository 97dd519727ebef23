"""Logical axes to mesh axes: the one table that says how everything is sharded.

Parameters carry the names on the left (see `harmopower.models`), activations and batches use `BATCH_AXES`. To shard
differently, change this table and nothing else.
"""

import math

import jax
from jax.sharding import PartitionSpec

from harmopower.errors import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

LOGICAL_AXIS_RULES = (
    ("batch", BATCH_AXES),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocabulary", "tensor"),
    ("shared", None),  # the joint image-text space: small, and every device needs all of it
    ("layers", None),
    ("position", None),
    ("patch", None),
    ("head_dim", None),
    ("qkv", None),
    ("norm", None),
)


def batch_spec() -> PartitionSpec:
    """The partition of any array whose leading axis is the examples of the global batch."""
    return PartitionSpec(BATCH_AXES)


def check_divides(parameter: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh) -> None:
    """Checks that a parameter can be cut over the mesh.

    Args:
      parameter: its path, for the message.
      shape, axes: its size and logical name along each axis.

    Raises:
      ConfigError: a mesh axis does not divide the axis that the rules put on it; the text names both and their sizes.
    """
    for axis, size in zip(axes, shape):
        over = dict(LOGICAL_AXIS_RULES)[axis] or ()
        names = (over,) if isinstance(over, str) else over
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            raise ConfigError(
                f"config.mesh.{' x '.join(names)} {parts} does not divide the {size} of axis {axis!r} of {parameter} "
                f"{list(shape)}; set it to a divisor of {size}"
            )


def constrain(x):
    """Keeps the leading axis of `x` on the batch axes of the mesh that is entered; without a mesh, `x` itself."""
    return _constrain(x, batch_spec())


def replicate(x):
    """Puts all of `x` on every device of the mesh that is entered; without a mesh, `x` itself."""
    return _constrain(x, PartitionSpec())


def _constrain(x, spec: PartitionSpec):
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty or mesh.are_all_axes_manual else jax.lax.with_sharding_constraint(x, spec)
