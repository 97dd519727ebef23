"""Every pinned package has a wheel for each Python that we run on, so that an installation compiles nothing."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys

from packaging.specifiers import SpecifierSet
from packaging.tags import parse_tag
import pytest

PINS = pathlib.Path(__file__).parents[1] / "constraints.txt"
WITHOUT_A_WHEEL = "promise"  # pure Python, built in a second
OTHERS = [f"3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]


def pins() -> list[tuple[str, str]]:
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith(("#", WITHOUT_A_WHEEL))]
    return [tuple(line.split("==")) for line in lines]


def serves(name: str, version: str, python: str) -> bool:
    """Whether the wheel that is installed here is the one that this Python would take too."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    written = re.findall(r"^Tag: (\S+)", found.read_text("WHEEL") or "", re.MULTILINE)
    tags = {(tag.interpreter, tag.abi) for line in written for tag in parse_tag(line)}
    major, _, minor = python.partition(".")
    any_minor = any(
        (interpreter == f"py{major}" and abi == "none")
        or (abi == "abi3" and int(interpreter.removeprefix(f"cp{major}")) <= int(minor))
        for interpreter, abi in tags
    )
    return found.version == version and any_minor and python in SpecifierSet(found.metadata["Requires-Python"] or "")


def offered(name: str, python: str) -> list[str]:
    """The versions of which pip finds a wheel for this Python; it reads the index and fetches no file."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--only-binary=:all:"]
    found = subprocess.run([*command, f"--python-version={python}"], capture_output=True, text=True)
    versions = re.search(r"^Available versions: (.*)$", found.stdout, re.MULTILINE)
    assert versions, found.stderr[-2000:]
    return versions[1].split(", ")


def test_what_is_compiled_for_one_python_is_told_from_what_serves_all():
    serving = {name for name, version in pins() if all(serves(name, version, python) for python in OTHERS)}
    assert {"absl-py", "safetensors", "rich"} < serving  # pure, for the stable ABI, pure
    assert not {"numpy", "jaxlib", "pillow"} & serving and len(pins()) > 50


@pytest.mark.slow
@pytest.mark.parametrize("python", OTHERS)
def test_every_pin_has_a_wheel(python):
    asked = [(name, version) for name, version in pins() if not serves(name, version, python)]
    lacking = [f"{name}=={version}" for name, version in asked if version not in offered(name, python)]
    assert not lacking, f"no wheel for Python {python}: {lacking}"
