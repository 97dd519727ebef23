"""The launch scripts that need a cluster: clean to shellcheck, and what they would run is what was asked for."""

import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
GCLOUD = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$(dirname "$0")/calls"; printf '\\n\\0' >> "$(dirname "$0")/calls"
"""


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_are_clean():
    scripts = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), LAUNCH.parent / ".ci" / "run"])
    assert len(scripts) >= 6
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
    assert shlex.split(line)[5:11] == ["--config.mesh.platform=tpu", *flags]
    assert "export LIBTPU_INIT_ARGS=" in script and "launch/environment.sh tpu" in script


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


def slurm(folder, code, signalled):
    """Runs slurm.sbatch where srun, scontrol and the environment are stand-ins; its exit code and what was called."""
    (folder / "launch").mkdir()
    (folder / "launch" / "environment.sh").write_text('echo "extras $1" >> calls; PYTHON=python\n')
    wait = "trap 'exit {0}' USR1; for _ in $(seq 200); do sleep 0.05; done" if signalled else "exit {0}"
    for name, script in (("srun", wait.format(code)), ("scontrol", "true")):
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {folder}/calls\n{script}\n')
        (folder / name).chmod(0o755)
    environment = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "7"}
    environment |= {"SLURM_SUBMIT_DIR": str(folder), "PATH": f"{folder}:/usr/bin:/bin"}
    job = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch", "--config", "configs/a b.py"], env=environment)
    while signalled and "srun" not in ((folder / "calls").read_text() if (folder / "calls").exists() else ""):
        assert job.poll() is None
        time.sleep(0.02)
    if signalled:
        time.sleep(0.2)  # until the stand-in has set its trap
        job.send_signal(signal.SIGUSR1)
    return job.wait(timeout=60), (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("code, signalled", [(0, False), (2, False), (75, False), (75, True)])
def test_slurm_requeues_what_was_stopped_and_nothing_else(tmp_path, code, signalled):
    found, calls = slurm(tmp_path, code, signalled)
    assert found == code and calls[0] == "extras cuda"
    assert calls[1].endswith("-m harmopower.train --config.mesh.platform=gpu --config configs/a b.py")
    assert calls[2:] == (["scontrol requeue 7"] if code == 75 else [])


@pytest.mark.parametrize("there, chosen", [(["3.11", "3.13"], "3.13"), (["3.14", "3.12"], "3.14"), (["3.9"], None)])
def test_the_newest_python_that_is_there_is_taken(tmp_path, there, chosen):
    for version in there:
        minor = version.partition(".")[2]
        script = f'[ "$1" = -c ] && exit {int(not 11 <= int(minor) < 15)}; echo {version}'
        (tmp_path / f"python{version}").write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / f"python{version}").chmod(0o755)
    source = (LAUNCH / "environment.sh").read_text()
    functions = source[source.index("usable()") : source.index("make_environment()")]
    run = subprocess.run(
        ["/bin/bash", "-c", functions + "find_python"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.strip() == (f"python{chosen}" if chosen else "") and run.returncode == (0 if chosen else 2)
    assert chosen or "error: no Python 3.11 to 3.14 found" in run.stderr
