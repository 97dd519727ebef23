"""Every command of the data says with --help how it is called, and what docs call can be called."""

import argparse
from pathlib import Path
import re
import shlex
import subprocess
import sys

import pytest

from tools import annotate, prepare

ROOT = Path(__file__).parents[2]
PARSERS = {"prepare": prepare._parser(), "annotate": annotate._parser()}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (names,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(names.choices)


COMMANDS = {f"{tool} {name}": own for tool, parser in PARSERS.items() for name, own in subcommands(parser).items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_is_one_and_a_limit(command):
    tool, name = command.split()
    (example,) = (COMMANDS[command].epilog or "").split("example:\n")[1:]
    words = shlex.split(example)
    assert words[:3] == ["python", "-m", f"tools.{tool}"] and words[3] == name
    PARSERS[tool].parse_args(words[3:])
    assert re.search(r"--limit N .*", COMMANDS[command].format_help())


def test_the_help_of_inspect_has_examples_and_a_limit():
    # A process of its own: flags of two commands cannot be in one.
    done = subprocess.run([sys.executable, "-m", "tools.inspect", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("python -m tools.inspect") == 3
    assert re.search(r"--limit: Records looked at", done.stdout)


def documented() -> list[str]:
    """Commands of README and docs that are written out in full."""
    texts = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    found = re.findall(r"tools\.(?:prepare|annotate) [^`\n]*", re.sub(r"\s*\\\n\s*", " ", texts))
    # An ellipsis is no command; a comment ends one. What has neither folder is a mention of one.
    lines = {re.split(r"\s{2,}", line)[0].strip() for line in found if "..." not in line}
    return sorted(line for line in lines if {"--output", "--data"} & set(line.split()))


@pytest.mark.parametrize("line", documented())
def test_commands_of_the_docs_are_understood(line):
    tool, *words = shlex.split(line.removeprefix("tools."))
    PARSERS[tool].parse_args(words)


def test_many_commands_are_documented():
    names = {tuple(line.split()[:2]) for line in documented()}
    assert {("tools.prepare", name.split()[1]) for name in COMMANDS if name.startswith("prepare")} <= names
    assert {("tools.annotate", name) for name in ("parses", "regions", "grounding", "match", "compare")} <= names
