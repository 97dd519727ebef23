"""The house as CONTRIBUTING.md describes it: imports point down and in no circle, and files stay short."""

import ast
import graphlib
from pathlib import Path
import re

PACKAGE = Path(__file__).resolve().parent.parent / "harmopower"

# From the ground up; a room may import from the rooms below its own. Rooms of one floor do not know each other, but for
# evaluation and interop, which are handed a run's parts by the entry points above.
FLOORS = (
    {"errors", "arrays"},
    {"settings"},
    {"combinations", "durations"},
    {"config", "parallel"},
    {"features", "models", "data"},
    {"objectives"},
    {"training", "evaluation"},
    {"interop", "workdir", "command"},
    {"runs", "published"},
    {"train", "evaluate", "interpolation", "experiments"},
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, wherever in the file."""
    files = {_module(path): path for path in PACKAGE.rglob("*.py")}
    return {name: {other for other in _imported(path, files) if other != name} for name, path in files.items()}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, modules):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from (name for name in (inner if inner in modules else node.module,) if name in modules)


def test_imports_point_down():
    wrong = []
    for module, others in imports().items():
        for other in others - {"harmopower"}:
            here, there = (name.split(".")[1] if "." in name else name for name in (module, other))
            if here != there and HEIGHT[here] <= HEIGHT[there]:
                wrong.append(f"{module} imports {other}")
    assert not wrong, wrong


def test_no_circles():
    graphlib.TopologicalSorter(imports()).prepare()  # raises a CycleError that names the circle


def test_files_are_short():
    long = {path.name: lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert not long, long


def test_workers_import_no_jax():
    """`harmopower.data` runs in worker processes, which must stay light (DESIGN.md, section 1)."""
    jax = re.compile(r"^\s*(import|from) (jax|flax)\b", re.MULTILINE)
    heavy = [path.name for path in (PACKAGE / "data").rglob("*.py") if jax.search(path.read_text())]
    assert not heavy, heavy
