"""The device mesh of a run: axes `data`, `fsdp` and `tensor`, built once and entered with `jax.set_mesh`."""
import math
import os

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from harmopower.config import ConfigError
from harmopower.parallel import rules


def initialize_processes() -> None:
    """Joins the processes of a multi-host run, where the environment says that this is one.

    Cloud TPU pods and Slurm steps of several tasks are recognised by jax itself; elsewhere set JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"])
        )
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        jax.distributed.initialize()


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """Builds the mesh; one axis may be -1 and takes the devices that the others leave.

    Raises:
      ConfigError: the axes do not multiply to the number of devices; the text names the keys and both values.
    """
    devices = jax.devices() if devices is None else devices
    shape = _fill({"data": data, "fsdp": fsdp, "tensor": tensor}, len(devices))
    # Explicit axis types (the default since jax 0.8) would ask every operation for its output sharding.
    return jax.make_mesh(shape, rules.MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def _fill(sizes: dict[str, int], devices: int) -> tuple[int, ...]:
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1:
        raise ConfigError(f"config.mesh has two free axes, {' and '.join(free)}; only one may be -1")
    if min(size for size in sizes.values()) < -1 or known < 1:
        raise ConfigError(f"config.mesh {sizes} has an axis that is neither -1 nor at least 1")
    if devices % known or (not free and known != devices):
        raise ConfigError(
            f"config.mesh {sizes} needs {'a multiple of ' if free else ''}{known} devices but there are {devices}; "
            f"set config.mesh.{free[0] if free else 'data'} so that the axes multiply to {devices}"
        )
    return tuple(devices // known if size == -1 else size for size in sizes.values())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a `[batch, ...]` array lies on the mesh: its leading axis over the batch axes of the rules."""
    return NamedSharding(mesh, rules.batch_spec())


def replicated(mesh: Mesh) -> NamedSharding:
    """How a value that every device holds whole lies on the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh) -> int:
    """Into how many pieces the global batch is cut on `mesh` (concrete or abstract; an empty mesh cuts nothing)."""
    return math.prod(mesh.shape.get(axis, 1) for axis in rules.BATCH_AXES)
