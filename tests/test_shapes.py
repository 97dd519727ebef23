"""Shapes that functions promise are checked in tests, and nowhere else."""

import ast
import os
import pathlib
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest

import harmopower
from harmopower.features.vectors import normalise
from harmopower.objectives import contrastive

ROWS = np.eye(3, 4, dtype=np.float32)


@pytest.mark.skipif(os.environ.get("HARMOPOWER_CHECK_SHAPES") == "0", reason="HARMOPOWER_CHECK_SHAPES is 0")
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


def public_functions(path):
    """Functions and methods of a module that others may call, `__call__` among them, and who they belong to."""
    for holder in [
        tree := ast.parse(path.read_text()),
        *(node for node in tree.body if isinstance(node, ast.ClassDef)),
    ]:
        if getattr(holder, "name", "").startswith("_"):
            continue
        for node in holder.body:
            if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__"):
                yield node, isinstance(holder, ast.ClassDef)


def annotations(function, method):
    """(name, annotation or None) of every parameter but self, and of what is returned."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args][method:] + arguments.kwonlyargs
    named += [one for one in (arguments.vararg, arguments.kwarg) if one]
    return [(one.arg, one.annotation) for one in named] + [("return", function.returns)]


def is_left_open(annotation) -> bool:
    """Whether an annotation is missing or says Any somewhere."""
    return annotation is None or any(
        getattr(node, "id", getattr(node, "attr", "")) == "Any" for node in ast.walk(annotation)
    )


@pytest.mark.parametrize("package", ["features", "models", "objectives"])
def test_public_functions_say_what_they_take_and_give(package):
    modules = list((pathlib.Path(harmopower.__file__).parent / package).glob("*.py"))
    functions = [(path.name, *found) for path in modules for found in public_functions(path)]
    assert len(functions) > 3
    open_ones = [
        f"{module} {function.name} {name}"
        for module, function, method in functions
        for name, annotation in annotations(function, method)
        if is_left_open(annotation)
    ]
    assert not open_ones, "\n".join(open_ones)
