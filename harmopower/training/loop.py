"""The loop around the train step. Its order is part of the contract:

1. take the batch of the step, 2. dispatch the update, 3. fetch the metrics of the step *before* (the device is never
waited for), 4. evaluate where it is due, 5. save where that is due, and always what was just evaluated, so that a
metric belongs to the state that it was measured on, 6. leave if too many records are bad or a signal asked for it.
An evaluation that a signal cut short is made when the run goes on, before anything else, also where no step is left.
"""

from collections.abc import Callable
import contextlib
import difflib
import math
import time

import jax
import numpy as np

from harmopower.data.pipeline import BadDataError
from harmopower.errors import ConfigError
from harmopower.parallel import agreement
from harmopower.parallel import mesh as meshes
from harmopower.training import accounting, teacher, writers
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states
from harmopower.training.checkpoints import Checkpoints, CheckpointWriter, add_metrics
from harmopower.training.signals import LateMaximum, StopSignal
from harmopower.training.step import make_train_step
from harmopower.training.watch import Watch


def train(
    config,
    workdir: str,
    model,
    pipeline,
    mesh,
    stop: StopSignal,
    evaluate: Callable,
    load_init=None,
    begin=None,
    look=None,
) -> int:
    """Trains until `config.total_steps`, resuming from the newest checkpoint in `workdir`.

    Args:
      pipeline: has `iterate(start_step)`, an endless iterator of host batches, `ids(step)`, `judge(seen, bad)` and
        `alone_text`.
      load_init: called as `load_init(params) -> params` on a fresh start, for `config.init`; None starts at random.
      begin: called as `begin(step)` when all checks have passed, before the first step; not where none is left to do.
      evaluate: called as `evaluate(params, step) -> metrics` every `config.evaluation.every_steps` and at the end.
      look: the same every `config.evaluation.light_every_steps`; nothing is saved for it. None: never.

    Returns:
      the exit code (errors.py): 0 when done, 75 when stopped by a scheduler's signal, 130 after Ctrl-C.

    Raises:
      NonFiniteError: losses or gradients were not finite for too many steps; the checkpoints stay as they are.
      DeadObjectiveError: a term has had no pair for too many steps.
      BadDataError: too many records cannot be used; the state is saved.
    """
    optimizer = optimizers.make_optimizer(config)
    with jax.set_mesh(mesh):
        state = start_state(config, model, optimizer, mesh, Checkpoints(workdir), load_init)
        step = int(state.step)
        if _evaluation_missing(config, workdir, step):
            found = _make_up(workdir, state, evaluate)
            if found:
                with contextlib.closing(Recorder(config, workdir, step, mesh.devices, pipeline)) as recorder:
                    recorder.add_evaluation(step, found)
            elif stop.agreed():
                told = stop.received and stop.received.name
                say(f"stopped by {told} before step {step} was evaluated; rerun the same command to go on")
                return stop.exit_code
        if step >= config.total_steps:
            say(f"already at step {step} of {config.total_steps}: nothing to train")
            return 0
        _check_best(config, workdir, state, evaluate, stop)
        if begin:
            begin(step)
        with (
            CheckpointWriter(workdir, config.checkpoint.keep, config.checkpoint.best) as checkpoints,
            contextlib.closing(Recorder(config, workdir, step, mesh.devices, pipeline)) as recorder,
        ):
            return _Run(config, model, optimizer, mesh, state, checkpoints, recorder, stop, evaluate, look).go(pipeline)


def _evaluation_missing(config, workdir: str, step: int) -> bool:
    """Whether the evaluation of a saved state is due and not beside it: a stop cut it short."""
    checkpoints = Checkpoints(workdir)
    due = bool(config.evaluation.suite) and step in checkpoints.steps() and _is_due(config, step)
    return due and not checkpoints.metrics(step)


def _make_up(workdir: str, state: states.TrainState, evaluate: Callable) -> dict[str, float]:
    """Evaluates a saved state and keeps what was found beside it, so that it can be the best one."""
    step = int(state.step)
    say(f"step {step} is saved without its evaluation, which is made now")
    found = evaluate(state.params, step)
    if found:
        # All processes wait here, since each reads the metrics when it opens the checkpoints.
        agreement.together(lambda: add_metrics(workdir, step, found) if jax.process_index() == 0 else None)
    return found


def _is_due(config, step: int) -> bool:
    every = config.evaluation.every_steps
    return bool(every and step % every == 0) or step == config.total_steps


def start_state(config, model, optimizer, mesh, checkpoints: Checkpoints, load_init=None) -> states.TrainState:
    """The newest checkpoint's state, or a fresh one, with the parameters that `load_init` puts in their place."""
    kept = teacher.kept(config)
    if not checkpoints.steps():
        state = states.create(model, optimizer, mesh, config.seed, **kept)
        return states.starting_from(load_init(state.params), state) if load_init else state
    return checkpoints.restore(checkpoints.resolve(None), states.abstract(model, optimizer, mesh, **kept))


def _check_best(config, workdir: str, state: states.TrainState, evaluate: Callable, stop: StopSignal) -> None:
    """Refuses a `checkpoint.best` that the evaluation does not give.

    Which metrics there are depends on the data too (which splits, boxes, kinds of negatives), so the start is evaluated
    to know, unless a checkpoint tells.
    """
    best = config.checkpoint.best
    if not best:
        return
    checkpoints = Checkpoints(workdir)
    stored = [checkpoints.metrics(step) for step in checkpoints.steps()]
    known = next(filter(None, reversed(stored)), None) or evaluate(state.params, int(state.step))
    if best not in known and not stop.requested():  # a stop cuts an evaluation short, which then has no metrics
        close = difflib.get_close_matches(best, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        there = ", ".join(sorted(known)) or "none: the data have nothing that the suite measures"
        raise ConfigError(
            f"config.checkpoint.best {best!r} is no metric of config.evaluation.suite "
            f"{config.evaluation.suite!r}{hint} (there are: {there})"
        )


class _Run:
    """The pieces of one run; `go` is the loop."""

    def __init__(self, config, model, optimizer, mesh, state, checkpoints, recorder, stop, evaluate, look):
        self._config, self._mesh, self._state = config, mesh, state
        self._checkpoints, self._recorder, self._stop, self._evaluate = checkpoints, recorder, stop, evaluate
        places = states.shardings(model, optimizer, mesh, **teacher.kept(config))
        self._train_step = make_train_step(model, optimizer, config, mesh, places)
        self._look = look
        self._key = jax.random.key(config.seed)
        self._saved_at, self._due = time.monotonic(), LateMaximum()

    def go(self, pipeline) -> int:
        total, first = self._config.total_steps, int(self._state.step)
        batches = pipeline.iterate(first)
        for step in range(first + 1, total + 1):
            started = time.perf_counter()
            batch = to_devices(next(batches), self._mesh)
            waited = time.perf_counter() - started
            metrics = self._update(batch, compiles=step == first + 1)
            self._recorder.add(step, metrics, waited)
            self._look_if_due(step)
            found = self._evaluate_if_due(step)
            self._save_if_due(step, found)
            self._refuse_bad_records(step, pipeline, found)
            if self._stop.agreed():
                return self._leave(step)
        self._recorder.flush()
        return 0

    def _update(self, batch: dict, compiles: bool) -> dict:
        started = time.perf_counter()
        if compiles:
            self._recorder.message("compiling the train step")
        self._state, metrics = self._train_step(self._state, batch, self._key)
        if compiles:
            self._recorder.message(f"compiled in {time.perf_counter() - started:.1f} s")
        return metrics

    def _refuse_bad_records(self, step: int, pipeline, found: dict[str, float]) -> None:
        watch = self._recorder.watch
        try:
            pipeline.judge(watch.seen, watch.bad)
        except BadDataError:  # on every process at the same step, so that the save, which all share, succeeds
            self._save(step, found)
            raise

    def _evaluate_if_due(self, step: int) -> dict[str, float]:
        """The metrics of the state after `step`; empty where no evaluation is due."""
        if not _is_due(self._config, step):
            return {}
        self._recorder.flush()
        found = self._evaluate(self._state.params, step)
        self._recorder.add_evaluation(step, found)
        return found

    def _look_if_due(self, step: int) -> None:
        if self._look and step % self._config.evaluation.light_every_steps == 0:
            self._recorder.flush()
            found = self._look(self._state.params, step)
            self._recorder.add_evaluation(step, found)
            numbers = ", ".join(f"{name} {100 * value:.1f}" for name, value in found.items())
            self._recorder.message(f"step {step}: {numbers or 'stopped while looking'}")

    def _save_if_due(self, step: int, found: dict[str, float]) -> None:
        settings = self._config.checkpoint
        due_by_time = self._agree(time.monotonic() - self._saved_at > 60 * settings.every_minutes)
        due_by_step = settings.every_steps and step % settings.every_steps == 0
        if due_by_time or due_by_step or found or step == self._config.total_steps:
            self._save(step, found)

    def _agree(self, due: bool) -> bool:
        # Clocks differ, and a save is collective: the first process decides, all obey a step later.
        if jax.process_count() == 1:
            return due
        return bool(self._due.exchange(int(due and jax.process_index() == 0)))

    def _save(self, step: int, found: dict[str, float]) -> None:
        self._recorder.flush()  # raises if the run cannot go on
        self._checkpoints.save(step, self._state, found)
        self._saved_at, self._due = time.monotonic(), LateMaximum()  # what was due by then is done

    def _leave(self, step: int) -> int:
        self._save(step, {})  # nothing happens where it was saved just now, with its metrics
        self._checkpoints.close()
        self._recorder.message(
            f"stopped by {self._stop.received.name} after step {step}, which is saved; rerun the same command to go on"
        )
        return self._stop.exit_code


def say(text: str) -> None:
    """Prints a line, on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def to_devices(batch: dict, mesh) -> dict:
    """This host's rows of the global batch as global arrays, sharded over the batch axes."""
    rows = meshes.batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(rows, value) for name, value in batch.items()}


class Recorder:
    """Fetches each step's metrics one step late, checks them, and writes every `config.log.every_steps`."""

    def __init__(self, config, workdir: str, start_step: int, devices, pipeline):
        self._config, self._first = config, start_step + 1
        self._pending = None
        first = jax.process_index() == 0
        wandb = writers.start_wandb(workdir, config.to_dict()) if config.log.wandb and first else None
        self._writer = writers.MetricWriter(workdir, start_step, config.log.tensorboard, wandb) if first else None
        self._progress = writers.Progress(config.total_steps, start_step, show=first)
        self.watch = Watch(config, workdir, self.message if first else None, pipeline.ids)
        self._schedule = optimizers.make_schedule(config)
        kind = devices.flat[0].device_kind
        self._throughput = accounting.Throughput(config, devices.size, kind, pipeline.alone_text)
        if accounting.peak_flops(kind) is None:
            self.message(f"no peak is known of the device {kind!r}: the metrics have no model_flops_utilization")

    def add(self, step: int, metrics: dict, waited: float) -> None:
        """Takes the metrics of `step` (still being computed) and handles those of the step before."""
        self.flush()
        self._pending = (step, metrics)
        self._throughput.waited(waited)

    def flush(self) -> None:
        """Handles the metrics that are still pending; waits for the device.

        Raises:
          NonFiniteError, DeadObjectiveError: see `Watch`.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._throughput.step_done(time.perf_counter())
        self.watch.see(step, values)
        if step % self._config.log.every_steps == 0 or step in (self._first, self._config.total_steps):
            self._write(step, values)

    def _write(self, step: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if math.isfinite(value)}  # of a skipped update, not all
        values["skipped_updates"] = self.watch.take_skipped()  # of all steps since the row before
        values["learning_rate"] = float(np.asarray(self._schedule(step - 1)))
        values["model_flops"] = step * self._throughput.step_flops  # since the first step, counted, not measured
        values |= self._throughput.row()
        rate = values["examples_per_second"]
        left = (self._config.total_steps - step) * self._config.batch_size / rate if rate else None
        if self._writer:
            self._writer.write(step, values)
        self._progress.update(step, values, left)

    def add_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the results of an evaluation; its time does not count as the training's."""
        if self._writer and metrics:
            self._writer.write(step, {f"evaluation/{name}": value for name, value in metrics.items()})
        self._throughput.restart(time.perf_counter())

    def message(self, text: str) -> None:
        """Tells the person who watches."""
        self._progress.message(text)

    def close(self) -> None:
        """Closes the files and the progress bar."""
        self._progress.close()
        if self._writer:
            self._writer.close()
