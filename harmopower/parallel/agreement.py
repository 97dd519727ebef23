"""Processes that end together: what one of them cannot do, none goes on with, so that nobody waits for it."""

from collections.abc import Callable, Iterator
import contextlib
import os
import re
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np

from harmopower.errors import PEER, CommandError, UserError

_LONGEST = 4096  # bytes of a message that travels
# What jax's errors say where a collective or the coordination service misses a process.
_LOST = re.compile(r"gloo|nccl|heartbeat|coordination service|unavailable|closed by peer|reset by peer", re.IGNORECASE)


def together(action: Callable):
    """Runs `action()` on every process and gives its result, where it succeeded on all of them.

    Raises:
      UserError: the own one of this process, else a CommandError with that of the first process that has one. Other
        errors are no mistakes of users: they pass, and the others stop when jax misses the process.
    """
    result, problem = None, None
    try:
        result = action()
    except UserError as error:
        problem = error
    if jax.process_count() > 1:
        of_another = _first_problem(problem)  # asked by all, also by those that have one
        problem = problem or of_another
    if problem:
        raise problem
    return result


def _first_problem(own: UserError | None) -> CommandError | None:
    row = np.zeros(1 + _LONGEST, np.uint8)  # exit code, text
    if own:
        text = str(own).encode()[:_LONGEST]
        row[0], row[1 : 1 + len(text)] = own.exit_code, np.frombuffer(text, np.uint8)
    for rank, (code, *text) in enumerate(multihost_utils.process_allgather(row)):
        if code:
            words = bytes(text).rstrip(b"\0").decode(errors="ignore")
            return CommandError(f"process {rank}: {words}", exit_code=int(code))
    return None


@contextlib.contextmanager
def leaving_with_the_lost() -> Iterator[None]:
    """Ends this process with exit code 69 where jax misses another one inside the block.

    At once, without what Python does at its end: jax would wait there for the lost one, and then abort. Where jax does
    not raise (a collective that hangs), it aborts the process itself when the lost one has been silent for 100 seconds.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo's come as either
        if isinstance(error, UserError) or jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        line = " ".join(str(error).split())
        print(
            f"error: another process of the run is lost ({line:.200}); start all of them again, they go on from the "
            "last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(PEER)
