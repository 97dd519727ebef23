"""Saving and restoring a run with Orbax; the only file that knows Orbax.

A checkpoint holds flat tables of arrays, `params`, `optimizer` and where the run keeps them `ema` and `start`, whose
names are the paths in the state (`vision/transformer/blocks/qkv/kernel`), so that other tools can read them without our
classes.
"""

import functools
import json
import math
import os
import time

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from harmopower.data import files
from harmopower.errors import CommandError
from harmopower.training.state import TrainState
from harmopower.training.watch import NonFiniteError

EMA, START = "ema", "start"
_REMOVAL_SECONDS = 1.0  # longer than it takes to remove a checkpoint, whose files go one by one


class CheckpointError(CommandError):
    """A checkpoint is missing or does not fit; the text lists what differs."""


def _flat(tree) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _unflat(flat: dict, like):
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return jax.tree.unflatten(structure, [flat[name] for name in names])


def _parts(state: TrainState) -> dict:
    parts = {"params": _flat(state.params), "optimizer": _flat((state.step, state.optimizer_state))}
    return parts | {name: _flat(tree) for name, tree in _beside(state).items()}


def _beside(state: TrainState) -> dict:
    """The parts that not every run keeps."""
    return {name: tree for name, tree in ((EMA, state.ema), (START, state.start)) if tree is not None}


class CheckpointGone(CheckpointError):
    """The trainer removed the checkpoint while it was read; a newer one is there."""


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints`, to read.

    Changes nothing on disk, so that a run may be evaluated, exported and started from while it is still being trained.
    Orbax's own `Checkpointer` is not for that: it takes the save under way of another process for a leftover.
    """

    def __init__(self, workdir: str):
        # Orbax wants absolute paths; one with a scheme, such as gs://, is absolute already.
        self._directory = epath.Path(workdir if "://" in str(workdir) else os.path.abspath(workdir)) / "checkpoints"

    def steps(self) -> list[int]:
        """The steps that are saved as a whole, oldest first."""
        if not self._directory.exists():
            return []
        found = ocp.path.step.standard_name_format().find_all(self._directory)
        # One that is just being removed has lost its time stamps first.
        return sorted(checkpoint.step for checkpoint in found if checkpoint.commit_timestamp_nsecs)

    def metrics(self, step: int) -> dict[str, float]:
        """What the evaluation of the state of `step` found, empty where it was not evaluated."""
        path = self.metrics_file(step)
        return json.loads(path.read_text()) if path.exists() else {}

    def metrics_file(self, step: int) -> epath.Path:
        """Where Orbax keeps what the evaluation of the state of `step` found."""
        return self._directory / str(step) / "metrics" / "metrics"

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads the whole state of `step` into the shapes and shards of `like`.

        Raises:
          CheckpointError: names, shapes or types differ; they are listed.
        """
        found = self._load(step, _parts(like))
        done, optimizer_state = _unflat(found["optimizer"], (like.step, like.optimizer_state))
        beside = {name: _unflat(found[name], tree) for name, tree in _beside(like).items()}
        return TrainState(done, _unflat(found["params"], like.params), optimizer_state, **beside)

    def restore_params(self, step: int, like, ema: bool = False):
        """Reads only the parameters of `step`, for evaluation and export, into the shapes and shards of `like`.

        Args:
          ema: their moving average in place of them.

        Raises:
          CheckpointError: names or shapes differ, or there is no average.
        """
        part = EMA if ema else "params"
        if ema and EMA not in self._stored(step):
            raise CheckpointError(
                f"--ema: the checkpoint of step {step} in {self._directory} holds no moving average; it was trained "
                "with config.optimizer.ema=0"
            )
        return _unflat(self._load(step, {part: _flat(like)})[part], like)

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters of `step` by flat name, as they are stored."""
        return {name: tuple(leaf.shape) for name, leaf in self._stored(step)["params"].items()}

    def resolve(self, step: int | None) -> int:
        """The step asked for, or the newest one.

        Raises:
          CheckpointError: it is not there; the text lists the steps that are.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self._directory}; train first, or correct --workdir")
        if step is not None and step not in steps:
            raise CheckpointError(f"there is no checkpoint of step {step} in {self._directory}, only of {steps}")
        return steps[-1] if step is None else step

    def _load(self, step: int, like: dict) -> dict:
        self._compare(step, like)
        return self._read(step, lambda path: ocp.load_checkpointables(path, like))

    def _stored(self, step: int) -> dict:
        """What is stored, without the values: part -> flat name -> shape and type."""
        return self._read(step, lambda path: ocp.checkpointables_metadata(path).metadata)

    def _read(self, step: int, read):
        try:
            return read(self._directory / str(step))
        except Exception as error:  # Orbax raises many kinds for files that vanish under its hands
            time.sleep(_REMOVAL_SECONDS)
            if step in self.steps():
                raise
            raise CheckpointGone(
                f"the checkpoint of step {step} in {self._directory} was removed while it was read; of a run that is "
                "being trained only the newest ones stay (config.checkpoint.keep)"
            ) from error

    def _compare(self, step: int, expected: dict) -> None:
        # Orbax reports a mismatch as a missing file, so names, shapes and types are compared beforehand.
        stored = self._stored(step)
        found = {part: _differences(stored.get(part) or {}, arrays) for part, arrays in expected.items()}
        lines = [line for part in found.values() for line in part]
        if not lines:
            return
        shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        where = f"the checkpoint of step {step} in {self._directory}"
        if "optimizer" not in expected or found["params"]:
            raise CheckpointError(f"{where} does not fit this model: {shown}")
        raise CheckpointError(
            f"{where} fits the model, but not the optimizer: {shown}. Give config.optimizer.{{name, groups, ema}} and "
            "config.objective.global_region.teacher as they were, or begin another --workdir with config.init"
        )


class CheckpointWriter(Checkpoints):
    """Also saves: the newest `keep` checkpoints stay, and the best one. For the one trainer of a workdir.

    Args:
      workdir: the run's folder; what a killed run left half written in it is removed.
      keep: how many of the newest stay.
      best: name of the evaluation metric (higher is better) whose best checkpoint stays too; empty for none.
    """

    def __init__(self, workdir: str, keep: int = 1, best: str = ""):
        super().__init__(workdir)
        policies = ocp.training.preservation_policies
        kept: list = [policies.LatestN(keep)]
        if best:
            rank = functools.partial(_rank, best)
            kept.append(policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False))
        self._checkpointer = ocp.training.Checkpointer(
            str(self._directory),
            preservation_policy=policies.AnyPreservationPolicy(kept),  # pyright: ignore[reportArgumentType] - Orbax has two
            cleanup_tmp_directories=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def save(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
        """Starts writing in the background; waits only for a save that is still under way.

        Args:
          step: updates done; nothing happens where that step is saved already.
          state: what `restore` gives back.
          metrics: the evaluation of this very state, empty where there was none.

        Raises:
          NonFiniteError: a number of the state is not finite; nothing is written.
        """
        if step in [checkpoint.step for checkpoint in self._checkpointer.checkpoints]:
            return
        parts = _parts(state)
        if broken := _not_finite(parts):
            raise NonFiniteError(f"step {step}: {_listed(broken)} not finite; no checkpoint is written")
        self._checkpointer.save_checkpointables_async(step, parts, force=True, metrics=dict(metrics) or None)

    def close(self) -> None:
        """Waits for the save under way."""
        self._checkpointer.close()


def add_metrics(workdir: str, step: int, metrics: dict[str, float]) -> None:
    """Puts the evaluation of a saved state beside it, where it was made only later.

    For one process, and before a `CheckpointWriter` is opened: that reads all metrics then, to know the best.
    """
    path = Checkpoints(workdir).metrics_file(step)
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, metrics)


def _rank(best: str, metrics: dict[str, float]) -> float:
    """The value to compare; an evaluation without it, or with NaN, is behind all others."""
    value = metrics.get(best, -math.inf)
    return -math.inf if math.isnan(value) else value


def _not_finite(parts: dict) -> list[str]:
    """Names of the arrays that hold an infinity or NaN; decided on the device, one number a name is fetched."""
    names = [f"{part}/{name}" for part, arrays in parts.items() for name in arrays]
    leaves = [array for arrays in parts.values() for array in arrays.values()]
    mesh = next((leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)), None)
    finite = _all_finite(mesh)(leaves)
    return [name for name, good in zip(names, finite, strict=True) if not good]


@functools.cache
def _all_finite(mesh):
    everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None  # so that every process can read it
    check = lambda leaves: jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
    return jax.jit(check, out_shardings=everywhere)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more + (" are" if len(names) > 1 else " is")


def _differences(stored: dict, expected: dict) -> list[str]:
    lines = [f"{name} is not in the checkpoint" for name in sorted(expected.keys() - stored.keys())]
    lines += [f"{name} is in the checkpoint only" for name in sorted(stored.keys() - expected.keys())]
    for name in sorted(stored.keys() & expected.keys()):
        there, here = stored[name], expected[name]
        if (tuple(there.shape), there.dtype) != (tuple(here.shape), here.dtype):
            lines.append(
                f"{name} is {there.dtype}{list(there.shape)} in the checkpoint, {here.dtype}{list(here.shape)} here"
            )
    return lines
