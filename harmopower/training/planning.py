"""What a run needs, learned without its hardware: the train step compiled ahead of time on forced host devices.

Nothing is computed and no data are read. State and traced activations are exact counts; what the CPU's compiler adds is
an upper end, because it keeps many bfloat16 values in float32 and fuses less than a GPU's or TPU's compiler. Attention
is compiled as `xla`, which stores its probabilities; `cudnn` does not. Tiles of the losses are those of a CPU; on an
accelerator they take some 100 to 200 MB more.
"""

from collections.abc import Callable, Iterator
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmopower import config as configs
from harmopower.data import pipeline
from harmopower.errors import ConfigError
from harmopower.models import vision
from harmopower.objectives import total
from harmopower.parallel import mesh as meshes
from harmopower.training import accounting, groups, teacher
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training import step as steps

USABLE = 0.92  # of a chip's memory; the rest is for its runtime, its libraries and fragmentation (our choice)
# The machine code is thrown away; how the compiler lays out memory does not depend on these.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Memory(NamedTuple):
    """Bytes a device.

    Attributes:
      state: parameters and optimizer state, after sharding.
      batch: the rows of the batch.
      gradients: of the parameters, after sharding.
      activations: what the backward pass of a slice keeps of the forward pass, as traced: the same on any hardware.
      losses: temporary memory of the losses alone, compiled.
      temporary: temporary memory of the whole step, compiled; activations, gradients and losses are in it.
    """

    state: int
    batch: int
    gradients: int
    activations: int
    losses: int
    temporary: int

    @property
    def low(self) -> int:
        """The lower end: what must be there at once, if the compiler needs nothing of its own."""
        return self.state + self.batch + self.activations + max(self.gradients, self.losses)

    @property
    def high(self) -> int:
        """The upper end: what the CPU's compiler asks for."""
        return self.state + self.batch + self.temporary


class Step:
    """The train step of a config on a mesh of all forced devices, as shapes only.

    Attributes:
      config: with `attention` as it is compiled here.
      model: of the config.
    """

    def __init__(self, config, make_model: Callable):
        """Sets up; `make_model(config)` gives the model.

        Raises:
          ConfigError: the settings do not suit each other or the number of devices.
        """
        self.config = config.copy_and_resolve_references()
        self.config.model.attention = "xla"  # a CPU has no other
        configs.validate(self.config, jax.device_count())
        self._mesh = meshes.make_mesh(**{**self.config.mesh, "platform": ""})  # a CPU stands in
        self.model = make_model(self.config)
        self._optimizer, self._kept = optimizers.make_optimizer(self.config), teacher.kept(self.config)
        self._state = states.abstract(self.model, self._optimizer, self._mesh, **self._kept)

    def parameters(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._state.params))

    def memory(self) -> Memory:
        """All parts; compiles the losses alone and the whole step, which can take minutes."""
        return Memory(
            **self.arguments(), activations=self.activations(), losses=self._losses(), temporary=self.temporary()
        )

    def arguments(self) -> dict[str, int]:
        """The parts of `Memory` that follow from shapes and shardings."""
        return {"state": _bytes(self._state), "batch": _bytes(self._batch()), "gradients": _bytes(self._trained())}

    def _trained(self):
        """The parameters that have a gradient, which lies as they do."""
        places = groups.by_path(self._state.params)
        trained = jax.eval_shape(functools.partial(groups.select, self.config.optimizer), self._state.params)
        return {
            key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[key].sharding)
            for key, leaf in groups.by_path(trained).items()
        }

    def activations(self) -> int:
        """Bytes of what the backward pass of one slice keeps on one device; cutting by `mesh.tensor` is not counted."""
        rows = self.config.batch_size // self.config.accumulate // meshes.batch_shards(self._mesh)
        batch = self._inputs(
            rows + -rows % self.config.data.region_text_every
        )  # whole groups of images that take turns
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._state.params)

        def kept(params, batch):
            model, trained, whole = steps.differentiated(self.model, self.config, params)
            return jax.vjp(lambda trained: steps.encode(model, whole(trained), batch, self.config), trained)[1]

        return _bytes(jax.eval_shape(kept, params, batch))

    def temporary(self) -> int:
        """Temporary bytes of the whole step on one device; compiles it."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        with jax.set_mesh(self._mesh):
            places = states.shardings(self.model, self._optimizer, self._mesh, **self._kept)
            step = steps.make_train_step(self.model, self._optimizer, self.config, self._mesh, places)
            return _temporary(step.lower(self._state, self._batch(), key))

    def _losses(self) -> int:
        """Temporary bytes of the value and gradient of all losses on one device, given the features."""
        rows = meshes.batch_sharding(self._mesh)
        features = jax.eval_shape(self._encode, self._state.params, self._inputs())
        features = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows), features)
        find_scales = lambda params: self.model.apply({"params": params}, method="scales")
        scales = jax.eval_shape(find_scales, self._state.params)

        def loss(features, scales):
            return total.total_loss(features, scales, self.config.objective, jnp.int32(0), jax.random.key(0))[0]

        with jax.set_mesh(self._mesh):
            return _temporary(jax.jit(jax.grad(loss, (0, 1), allow_int=True)).lower(features, scales))

    def meetings(self) -> dict[str, tuple[str, int]]:
        """How shards of the batch meet in the losses (`harmopower.objectives.total.meetings`)."""
        return total.meetings(self.config.objective, jax.eval_shape(self._encode, self._state.params, self._inputs()))

    def _encode(self, params, batch):
        return steps.encode(self.model, params, batch, self.config)

    def _inputs(self, rows: int | None = None) -> dict:
        """What the towers are given: the batch, and the patches that are kept where some are dropped."""
        batch, dropout = self._batch(rows), self.config.model.patch_dropout
        if dropout:
            shape = batch["weight"].shape[0], vision.kept_patches(self.model.grid, dropout)
            batch["kept_patches"] = jax.ShapeDtypeStruct(shape, jnp.int32)
        return batch

    def _batch(self, rows: int | None = None) -> dict:
        """The global batch, sharded, or so many rows of it on one device."""
        place = None if rows else meshes.batch_sharding(self._mesh)
        one = pipeline.empty_batch(
            self.config.data, 1, grid=self.model.grid, region_text=total.active(self.config.objective).region_text
        )
        return {
            name: jax.ShapeDtypeStruct((rows or self.config.batch_size, *value.shape[1:]), value.dtype, sharding=place)
            for name, value in one.items()
        }


def _bytes(tree) -> int:
    """Bytes a device of a tree of shapes."""

    def size(leaf):
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def _temporary(lowered) -> int:
    return lowered.compile(compiler_options=COMPILER_OPTIONS).memory_analysis().temp_size_in_bytes


def plan(config, chip_name: str, make_model: Callable) -> dict:
    """Counts and compiles the step of a config on all (forced) devices.

    Args:
      chip_name: a key of `accounting.CHIPS`.
      make_model: `make_model(config)` gives the model of a config.

    Returns:
      plain numbers, bytes and seconds: `parameters`; `memory_a_device`, see `Memory`; `flops` of the model and of the
      hardware for a step of all devices; `communication`, for each loss in which shards of the batch meet, how they do
      and the bytes a device that gathering takes; `floor_seconds` at peak; `fits`, "yes", "no" or "perhaps"; and unless
      it is "yes", `largest`, the part that takes most, and `would_fit`, the first settings found that make it fit (or
      None).

    Raises:
      ConfigError: the settings do not suit each other or the number of devices.
    """
    step, chip = Step(config, make_model), accounting.CHIPS[chip_name]
    memory = step.memory()
    model, hardware = (sum(accounting.step_flops(config, computed).values()) for computed in (False, True))
    floor = hardware / (chip.peak_flops * jax.device_count())
    found = {
        "chip": chip_name,
        "devices": jax.device_count(),
        "batch_size": config.batch_size,
        "parameters": step.parameters(),
        "memory_a_device": {**memory._asdict(), "low": memory.low, "high": memory.high, "chip": chip.memory},
        "flops": {"model": model, "hardware": hardware},
        "communication": {name: {"way": way, "bytes": count} for name, (way, count) in step.meetings().items()},
        "floor_seconds": floor,
        "examples_per_second_at_peak": config.batch_size / floor,
        "fits": verdict(memory, chip),
    }
    if found["fits"] != "yes":
        found["largest"] = max(("state", "activations", "losses"), key=lambda part: getattr(memory, part))
        found["would_fit"] = first_fit(config, memory, chip, make_model)
    return found


def verdict(memory: Memory, chip: accounting.Chip) -> str:
    """ "yes" if the upper end fits the chip, "no" if not even the lower end does, else "perhaps"."""
    limit = USABLE * chip.memory
    return "no" if memory.low > limit else "yes" if memory.high <= limit else "perhaps"


def first_fit(config, memory: Memory, chip: accounting.Chip, make_model: Callable) -> dict | None:
    """The first of `candidates` whose compiled step fits; those that the counts rule out are not compiled."""
    for settings in candidates(config, jax.device_count()):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(settings)
        try:
            step = Step(changed, make_model)
        except ConfigError:
            continue  # the batch or the mesh does not divide
        counted = memory._replace(**step.arguments(), activations=step.activations())
        if verdict(counted, chip) != "no" and verdict(counted._replace(temporary=step.temporary()), chip) == "yes":
            return settings
    return None


def candidates(config, devices: int) -> Iterator[dict]:
    """Settings that need less memory, those that cost least time first."""
    remat = [{"model.remat": "full"}] if config.model.remat != "full" else []
    slices = [{"accumulate": config.accumulate * count} for count in (2, 4, 8)]
    lighter = remat + slices + [one | other for one in remat for other in slices]
    shards = []
    count = 2 * max(config.mesh.fsdp, 1)
    while count * config.mesh.tensor <= devices:
        shards.append({"mesh.data": -1, "mesh.fsdp": count})
        count *= 2
    yield from lighter
    yield from shards
    yield from (one | other for one in shards for other in lighter)
