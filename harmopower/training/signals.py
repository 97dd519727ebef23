"""Stopping politely: a signal sets a flag, the loop saves at the next step and leaves."""

import functools
import signal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from harmopower.errors import INTERRUPTED, STOPPED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Catches SIGINT, SIGTERM and SIGUSR1 inside a `with` block; a second Ctrl-C stops at once.

    JAX's own handler knows SIGTERM only, and only after `jax.distributed.initialize`, so these are ours.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._previous = {}
        self._told = LateMaximum()

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, _frame):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """75 for the signals of schedulers: start me again; 130 for Ctrl-C, so that a script around us stops too."""
        return INTERRUPTED if self.received == signal.SIGINT else STOPPED

    def requested(self) -> bool:
        """Whether this process was told to stop."""
        return self.received is not None

    def agreed(self) -> bool:
        """Whether any process was told to stop; all must ask equally often, and get the same answer to each question.

        With several processes a signal counts from the question after the one that first saw it.
        """
        if jax.process_count() == 1:
            return self.requested()
        told = self._told.exchange(int(self.received or 0))
        if told and self.received is None:
            self.received = signal.Signals(told)
        return bool(told)


class LateMaximum:
    """The largest of the numbers that the processes named at the previous exchange.

    One exchange late, so that no process waits for the device: the computation queues behind the train step, and what
    is fetched is that of the step before.
    """

    def __init__(self):
        self._pending = None

    def exchange(self, number: int) -> int:
        """Names a number, at least 0, and gives the largest one of the exchange before (0 at the first)."""
        before, self._pending = self._pending, _maximum(number)
        return 0 if before is None else int(before)


def _maximum(number: int) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    own = np.full(jax.local_device_count(), number, np.int32)
    numbers = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("devices")), own)
    return _max(NamedSharding(mesh, PartitionSpec()))(numbers)


@functools.cache
def _max(everywhere: NamedSharding):
    return jax.jit(jnp.max, out_shardings=everywhere)
