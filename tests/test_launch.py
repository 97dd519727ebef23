"""The launch scripts that need a cluster: clean to shellcheck, and what they would run is what was asked for."""

import pathlib
import shlex
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
GCLOUD = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$(dirname "$0")/calls"; printf '\\n\\0' >> "$(dirname "$0")/calls"
"""


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_are_clean():
    scripts = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
    assert len(scripts) >= 5
    found = subprocess.run(["shellcheck", *scripts], cwd=LAUNCH.parent, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def tpu_vm(folder, *arguments):
    """Runs tpu_vm.sh with a stand-in for gcloud; the commands that it was given."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    run = subprocess.run(
        [LAUNCH / "tpu_vm.sh", *arguments],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        text=True,
        capture_output=True,
        check=False,
    )
    calls = (folder / "calls").read_text().split("\n\0") if (folder / "calls").exists() else []
    return run, [call.split("\0")[:-1] for call in calls[:-1]]


def test_tpu_vm_copies_then_starts_the_same_command_line(tmp_path):
    flags = ["--config", "configs/scenes.py", "--workdir", "/bucket/my run", "--config.model.dtype=bfloat16"]
    run, (copy, start) = tpu_vm(tmp_path, "pod", "us-east5-a", *flags)
    assert run.returncode == 0, run.stderr
    assert copy[3] == "scp" and copy[5] == "pod:harmopower.tar.gz" and "--worker=all" in copy
    assert start[3:7] == ["ssh", "pod", "--zone=us-east5-a", "--worker=all"]
    quoted = start[7].partition("bash -c ")[2]
    script = subprocess.check_output(["bash", "-c", f"printf %s {quoted}"], text=True)
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
    line = next(line for line in script.splitlines() if "harmopower.train " in line)
    assert shlex.split(line)[5:10] == flags
    assert "export LIBTPU_INIT_ARGS=" in script and "launch/environment.sh" in script


@pytest.mark.parametrize("arguments", [(), ("pod",), ("pod", "us-east5-a")])
def test_tpu_vm_without_arguments_is_one_line_and_exit_code_2(tmp_path, arguments):
    run, calls = tpu_vm(tmp_path, *arguments)
    assert run.returncode == 2 and run.stderr.startswith("error: ") and not calls


def test_the_quickstart_evaluates_its_last_step_once():
    """Training measures its last step and prints the table (tests/training/test_loop.py); a second one is the same."""
    commands = [line for line in (LAUNCH / "local.sh").read_text().splitlines() if line.startswith('"$PYTHON" -m ')]
    assert [line.split(" -m ")[1].split()[0] for line in commands] == [
        "tools.prepare",
        "harmopower.train",
        "tools.export",
    ]
