"""The device mesh of a run: axes `data`, `fsdp` and `tensor`, built once and entered with `jax.set_mesh`.

Several TPU slices or GPU nodes are found by themselves: the slow network between them lies on the axis `data` as far
as that axis allows, then on `fsdp`. So on 4 nodes of 8 GPUs `fsdp=8` shards parameters inside each node.
"""

import math
import os

import jax
from jax.experimental import mesh_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from harmopower.errors import ConfigError
from harmopower.parallel import rules


def initialize_processes() -> None:
    """Joins the processes of a multi-host run, where the environment says that this is one.

    Slurm steps of several tasks and TPU pods on GKE show in the environment. HARMOPOWER_DISTRIBUTED=1 makes jax find
    out where nothing shows: on Cloud TPU VMs (launch/tpu_vm.sh sets it). Elsewhere set JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    tasks, hosts = os.environ.get("SLURM_STEP_NUM_TASKS", 1), os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"])
        )
    elif int(tasks) > 1 or len(hosts) > 1 or os.environ.get("HARMOPOWER_DISTRIBUTED") == "1":
        jax.distributed.initialize()


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, platform: str = "", devices=None) -> Mesh:
    """Builds the mesh; one axis may be -1 and takes the devices that the others leave.

    Args:
      platform: of the devices, `cpu`, `gpu` or `tpu`; empty for any.
      devices: all of them by default. Their `slice_index`, or where they have none their process, says which of them
        are joined by the fast network; groups must be of equal size.

    Raises:
      ConfigError: the devices are of another platform, the axes do not multiply to their number, or processes would
        share rows of the batch; the text names the keys and both values.
    """
    devices = jax.devices() if devices is None else devices
    _check_platform(platform, devices[0].platform)
    shape = _fill({"data": data, "fsdp": fsdp, "tensor": tensor}, len(devices))
    arranged = arrange(shape, devices)
    _check_rows(arranged)
    _load_no_programs(arranged)
    # Explicit axis types (the default since jax 0.8) would ask every operation for its output sharding.
    return Mesh(arranged, rules.MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


def _load_no_programs(arranged) -> None:
    """Leaves jax's store of compiled programs alone where several CPU devices make the mesh.

    A train step for eight forced CPU devices that was loaded from the store came to its collectives in another order
    on each device, and the devices waited for each other until XLA ended the process: five runs of five, and none of
    three that had compiled the same step themselves (jaxlib 0.10.2).
    """
    if arranged.size > 1 and arranged.flat[0].platform == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # or a process that has compiled before goes on with the store


def arrange(shape: tuple[int, ...], devices):
    """The devices as an array of that shape, neighbours by the fast network where they can be."""
    by_process, groups = fast_groups(devices)
    between = slow_shape(shape, groups)
    inside = tuple(size // slow for size, slow in zip(shape, between))
    return mesh_utils.create_hybrid_device_mesh(
        inside, between, devices, process_is_granule=by_process, allow_split_physical_axes=True
    )


def _check_platform(meant: str, found: str) -> None:
    # jax falls back to the CPU without an error where it has no plugin or the driver is missing.
    if meant and meant != found:
        extra = {"gpu": "; pip install -e '.[cuda]', and see nvidia-smi", "tpu": "; pip install -e '.[tpu]'"}
        raise ConfigError(
            f"config.mesh.platform {meant} is meant, but jax {jax.__version__} finds a {found}{extra.get(meant, '')}"
        )


def _check_rows(arranged) -> None:
    # Every process reads rows of its own, so the devices that share rows must belong to one process.
    for sharing in arranged.reshape(-1, arranged.shape[-1]):
        owners = sorted({device.process_index for device in sharing})
        if len(owners) > 1:
            raise ConfigError(
                f"config.mesh.tensor {len(sharing)} spans the processes {', '.join(map(str, owners))}, and each "
                f"reads rows of its own; set it to a divisor of the number of devices of one process"
            )


def fast_groups(devices) -> tuple[bool, int]:
    """Whether the fast network joins a process's devices (else those of a TPU slice or GPU node); how many groups."""
    by_process = not hasattr(devices[0], "slice_index")
    return by_process, len({device.process_index if by_process else device.slice_index for device in devices})


def slow_shape(shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """How many groups of devices each axis of the mesh spans: the first axis as many as divide it, then the next.

    Args:
      shape: of the mesh; its product is a multiple of groups.
    """
    spans = []
    for size in shape:
        spans.append(math.gcd(size, groups))
        groups //= spans[-1]
    return tuple(spans)


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
