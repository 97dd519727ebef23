"""What the benchmarks share: devices, fair timing, what a matrix product reaches here, and how numbers are shown."""

import time

import jax
import jax.numpy as jnp
import numpy as np


def use_devices(count: int):
    """Makes `count` devices available; on a CPU by cutting the host into them, before JAX has looked at it."""
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)
    if jax.device_count() < count:
        raise ValueError(f"--devices {count} but there are {jax.device_count()} devices")


def take_turns(calls, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs each (function, arguments) once a round, after a round that warms up.

    The calls take turns, so that whatever else the machine does falls on all of them.

    Returns:
      seconds `[repeats, calls]` by the clock, and of this process's processor time over all threads.
    """

    def seconds(function, arguments):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - start[0], time.process_time() - start[1]

    rounds = [[seconds(*call) for call in calls] for _ in range(repeats + 1)]
    times = np.array(rounds[1:]).reshape(repeats, len(calls), 2)  # also without any calls
    return times[..., 0], times[..., 1]


def fastest(calls, repeats: int) -> list[float]:
    """Seconds of the fastest of some runs of each (function, arguments), which take turns."""
    return take_turns(list(calls), repeats)[0].min(axis=0).tolist()


def matmul_rate(dtype: str) -> float:
    """Operations a second of a large matrix product on one device: what an ideal train step would reach here."""
    size = 2048 if jax.default_backend() == "cpu" else 16384
    matrix = jnp.ones((size, size), dtype)
    return 2 * size**3 / fastest([(jax.jit(jnp.dot), (matrix, matrix))], 3)[0]


def format_number(value, factor: float) -> str:
    return "not run" if value is None else f"{value * factor:.4g}"
