"""Runs what a table lacks, several at once, each as a process of its own that a person could have started.

A run that was stopped goes on from its checkpoint, a failed one is named and stops no other. A signal is passed on:
every run saves, and the table goes on where it was when the same command is given again. Where the table itself was
killed, its runs go on by themselves; the next command waits for them.
"""

from collections.abc import Callable
import contextlib
import os
import signal
import subprocess
import time
from typing import NamedTuple

from harmopower.errors import FINISHED, PEER, STOPPED, CommandError
from harmopower.experiments import rows as rows_of
from harmopower.experiments.place import Place, environment
from harmopower.experiments.table import Run

TRIES = 5  # of a run that others stop again and again
_SECONDS = 0.2  # between two looks


class Outcome(NamedTuple):
    """What became of a table: `failed`, run -> reason; `stopped`, whether a signal ended it before its end."""

    failed: dict[str, str]
    stopped: bool


class Pool:
    """The processes of one table; `go` is the loop."""

    def __init__(self, wanted: list[Run], runs: dict[str, Run], place: Place, path, jobs: int, say: Callable = print):
        """Args:
        wanted: runs that lack a row; what they need is run too, where its weights are not on this machine.
        runs: all of the table.
        path: file of the rows.
        jobs: how many run at once.
        """
        self._runs, self._place, self._path, self._jobs, self._say = runs, place, path, jobs, say
        self._pending = self._with_needs(wanted)
        self._has_row = rows_of.sort_out(rows_of.read(path), runs).current.keys()
        self._total = len(self._pending)
        self._running: dict[str, subprocess.Popen] = {}
        self._free_cores, self._cores = core_shares(jobs), {}
        self._tries: dict[str, int] = {}
        self._waited_for: set[str] = set()
        self._failed: dict[str, str] = {}

    def _with_needs(self, wanted: list[Run]) -> list[Run]:
        """And those whose weights they need, in the table's order."""
        names: set[str] = set()

        def add(run: Run) -> None:
            names.add(run.name)
            for need in run.needs:
                if not self._place.finished(self._runs[need]):
                    add(self._runs[need])

        for run in wanted:
            add(run)
        return [run for name, run in self._runs.items() if name in names]

    def go(self, stop) -> Outcome:
        """Runs until nothing is left or `stop.requested()`."""
        told = False
        try:
            while True:
                self._reap(stopping=told)
                if stop.requested() and not told:
                    told = True
                    self._tell_all(signal.SIGTERM)
                if not told:
                    self._fill()
                if not self._running and (told or not self._pending):
                    return Outcome(self._failed, told)
                time.sleep(_SECONDS)
        finally:
            self._tell_all(signal.SIGKILL)  # a second Ctrl-C, or a mistake of ours: none is left without a master

    def _tell_all(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                process.send_signal(number)

    def _fill(self) -> None:
        """Starts what can be started."""
        elsewhere = 0
        for run in list(self._pending):
            if len(self._running) + elsewhere >= self._jobs:
                return
            if reason := next((need for need in run.needs if need in self._failed), ""):
                self._fail(run, f"not begun: it starts from {reason}")
            elif any(need in self._running or self._runs[need] in self._pending for need in run.needs):
                continue
            elif holder := self._place.holder(run):
                elsewhere += 1
                self._tell_once(run, f"is run by {holder}: waiting for it")
            else:
                self._start(run)

    def _tell_once(self, run: Run, text: str) -> None:
        if run.name not in self._waited_for:
            self._waited_for.add(run.name)
            self._say(f"{run.name}: {text}")

    def _start(self, run: Run) -> None:
        self._pending.remove(run)
        log, command = self._place.log(run), self._place.command(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        again = self._place.step(run) if run.alpha is None else 0
        self._say(f"{run.name}: {f'goes on after step {again}' if again else 'begins'} ({log})")
        with open(log, "a", encoding="utf-8") as file:
            file.write("$ " + " ".join(command) + "\n")
            file.flush()
            self._cores[run.name] = self._free_cores.pop()
            with _kept_to(self._cores[run.name]):
                # In a session of its own: Ctrl-C on the terminal reaches us alone, and we pass it on.
                self._running[run.name] = subprocess.Popen(
                    command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment(self._jobs),
                    start_new_session=True,
                )  # fmt: skip

    def _reap(self, stopping: bool) -> None:
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            self._free_cores.append(self._cores.pop(name))
            self._ended(self._runs[name], code, stopping)

    def _ended(self, run: Run, code: int, stopping: bool) -> None:
        if code == FINISHED:
            self._keep(run)
        elif stopping:
            self._say(f"{run.name}: stopped (exit code {code}); the same command goes on with it")
        elif code in (STOPPED, PEER) and self._tries.get(run.name, 0) + 1 < TRIES:
            self._tries[run.name] = self._tries.get(run.name, 0) + 1
            self._say(f"{run.name}: was stopped (exit code {code}), is started again")
            self._pending.insert(0, run)
        else:
            self._fail(run, f"exit code {code}: {last_line(self._place.log(run))}")

    def _keep(self, run: Run) -> None:
        done = self._total - len(self._pending) - len(self._running)
        if run.name in self._has_row:
            self._say(f"{run.name}: its weights are there again ({done} of {self._total})")
            return
        try:
            if not self._place.finished(run):
                raise CommandError(f"{self._place.folder(run)} holds no evaluation of its last step")
            rows_of.append(self._path, self._place.row(run))
        except (CommandError, OSError) as error:
            self._fail(run, str(error))
            return
        self._say(f"{run.name}: done ({done} of {self._total})")

    def _fail(self, run: Run, reason: str) -> None:
        if run in self._pending:
            self._pending.remove(run)
        self._failed[run.name] = reason
        self._say(f"{run.name}: FAILED, {reason}")


def core_shares(jobs: int) -> list[set[int]]:
    """The cores that we may use, dealt out to so many runs at once; none is dealt, and a share empty, where they do not
    go round or the system keeps no process to its cores.

    Two runs that each have a core do more in all than two that share both: neither waits for the other's threads.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if jobs == 1 or len(cores) < jobs:
        return [set() for _ in range(jobs)]
    return [set(cores[place::jobs]) for place in range(jobs)]


@contextlib.contextmanager
def _kept_to(cores: set[int]):
    """What is started meanwhile stays on these cores; on all where none is named."""
    if not cores:
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def last_line(path: str | os.PathLike) -> str:
    """The last line of a log that says something, the one of an error before others."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    of_this_start = lines[max((place for place, line in enumerate(lines) if line.startswith("$ ")), default=0) + 1 :]
    errors = [line for line in of_this_start if line.startswith("error: ")]
    return (errors or of_this_start or ["it printed nothing"])[-1][:500]
