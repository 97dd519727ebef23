"""Shapes that functions promise are checked in tests, and nowhere else."""

import subprocess
import sys

import jaxtyping
import numpy as np
import pytest

from harmopower.features.vectors import normalise
from harmopower.objectives import contrastive

ROWS = np.eye(3, 4, dtype=np.float32)


def test_a_wrong_shape_is_refused_and_array_likes_are_not():
    with pytest.raises(jaxtyping.TypeCheckError):
        normalise(ROWS, np.ones(2, bool))
    with pytest.raises(jaxtyping.TypeCheckError):
        contrastive.softmax_loss(ROWS, ROWS[:2], 10.0)
    assert contrastive.softmax_loss(ROWS, ROWS, 10.0)[0] == contrastive.softmax_loss(ROWS, ROWS, np.float32(10))[0]


def test_nothing_is_checked_in_training():
    """A process that imports the train step as training does: plain functions, and beartype not even loaded."""
    program = (
        "import sys, harmopower.training.step\n"
        "from harmopower.objectives import contrastive, total\n"
        "assert 'beartype' not in sys.modules, 'beartype is loaded'\n"
        "assert not hasattr(contrastive.softmax_loss, '__wrapped__'), 'wrapped'\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
