"""Saving and restoring a run with Orbax; the only file that knows Orbax.

A checkpoint holds two flat tables of arrays, `params` and `optimizer`, whose names are the paths in the state
(`vision/transformer/blocks/qkv/kernel`), so that other tools can read the parameters without our classes.
"""

import os

from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from harmopower.errors import CommandError
from harmopower.training.state import TrainState


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
    return {"params": _flat(state.params), "optimizer": _flat((state.step, state.optimizer_state))}


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints`: the newest `keep` and the best one.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      best: name of the evaluation metric (higher is better) whose best checkpoint stays too; empty for none.
    """

    def __init__(self, workdir: str, keep: int = 1, best: str = ""):
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)]
        if best:
            kept.append(
                policies.BestN(get_metric_fn=lambda found: found[best], n=1, keep_checkpoints_without_metrics=False)
            )
        # Orbax wants absolute paths; one with a scheme, such as gs://, is absolute already.
        self._directory = str(
            epath.Path(workdir if "://" in str(workdir) else os.path.abspath(workdir)) / "checkpoints"
        )
        self._checkpointer = ocp.training.Checkpointer(
            self._directory, preservation_policy=policies.AnyPreservationPolicy(kept), cleanup_tmp_directories=True
        )
        self._best = best

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def steps(self) -> list[int]:
        """The steps that are saved, oldest first."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(self, step: int, state: TrainState, metrics: dict[str, float]) -> None:
        """Starts writing in the background; waits only for a save that is still under way."""
        if step in self.steps():
            return
        found = {self._best: metrics[self._best]} if self._best in metrics else None
        self._checkpointer.save_checkpointables_async(step, _parts(state), force=True, metrics=found)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads the whole state of `step` into the shapes and shards of `like`.

        Raises:
          CheckpointError: names, shapes or types differ; they are listed.
        """
        abstract = _parts(like)
        self._compare(step, abstract)
        found = self._checkpointer.load_checkpointables(step, abstract)
        done, optimizer_state = _unflat(found["optimizer"], (like.step, like.optimizer_state))
        return TrainState(done, _unflat(found["params"], like.params), optimizer_state)

    def restore_params(self, step: int, like):
        """Reads only the parameters of `step`, for evaluation and export, into the shapes and shards of `like`."""
        abstract = {"params": _flat(like)}
        self._compare(step, abstract)
        return _unflat(self._checkpointer.load_checkpointables(step, abstract)["params"], like)

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters of `step` by flat name, as they are stored."""
        stored = self._checkpointer.checkpointables_metadata(step).metadata["params"]
        return {name: tuple(leaf.shape) for name, leaf in stored.items()}

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

    def close(self) -> None:
        """Waits for the save under way."""
        self._checkpointer.close()

    def _compare(self, step: int, expected: dict) -> None:
        # Orbax reports a mismatch as a missing file, so names, shapes and types are compared beforehand.
        stored = self._checkpointer.checkpointables_metadata(step).metadata
        lines = []
        for part, arrays in expected.items():
            lines += _differences(stored.get(part) or {}, arrays)
        if lines:
            shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._directory} does not fit this model: {shown}"
            )


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
