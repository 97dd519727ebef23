"""Stopping politely: a signal sets a flag, the loop saves at the next step and leaves."""
import signal

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Catches SIGINT, SIGTERM and SIGUSR1 inside a `with` block; a second Ctrl-C stops at once.

    JAX's own handler knows SIGTERM only, and only after `jax.distributed.initialize`, so these are ours.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._previous = {}

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
        """0 for the signals of schedulers, 130 for Ctrl-C, so that a script around us stops too."""
        return 130 if self.received == signal.SIGINT else 0

    def requested(self) -> bool:
        """Whether this process was told to stop."""
        return self.received is not None

    def agreed(self) -> bool:
        """Whether any process was told to stop; every process must ask at the same step, and all get one answer."""
        if jax.process_count() == 1:
            return self.requested()
        told = multihost_utils.process_allgather(np.array(int(self.received or 0)))
        if told.any() and self.received is None:
            self.received = signal.Signals(int(told.max()))
        return bool(told.any())
