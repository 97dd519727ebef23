"""What processes tell each other besides arrays."""

import pickle

import jax
from jax.experimental import multihost_utils
import numpy as np


def gather(own: dict) -> dict:
    """The dicts of all processes as one; every process must call it, and no two may have the same key.

    Args:
      own: picklable; every process of a run is started by the same user from the same code.
    """
    if jax.process_count() == 1:
        return own
    text = np.frombuffer(pickle.dumps(own), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return {
        key: value
        for row, size in zip(rows, sizes, strict=True)
        for key, value in pickle.loads(row[: int(size)].tobytes()).items()
    }
