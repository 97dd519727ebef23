"""A mistake that only one process makes ends all of them, each with one line."""

import concurrent.futures
import threading

import jax
import numpy as np
import pytest

from harmopower.errors import CommandError, ConfigError
from harmopower.parallel import agreement


@pytest.fixture
def two(monkeypatch):
    """Threads in the place of two processes: `two(first, second)` gives what `together` gave or raised in each."""
    here, rows, all_there = threading.local(), [None, None], threading.Barrier(2, timeout=10)

    def allgather(row):
        rows[here.rank] = row
        all_there.wait()
        return np.stack(rows)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement.multihost_utils, "process_allgather", allgather)

    def outcome(rank, action):
        here.rank = rank
        try:
            return agreement.together(action)
        except Exception as error:
            return error

    def run(*actions):
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            return list(threads.map(outcome, (0, 1), actions))

    return run


def fails(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("mistaken", [0, 1])
def test_a_mistake_of_one_process_ends_both(two, mistaken):
    own = CommandError("/data/Überraschung is missing", exit_code=65)
    actions = [lambda: "ready", lambda: "ready"]
    actions[mistaken] = fails(own)
    found = two(*actions)
    assert found[mistaken] is own
    other = found[1 - mistaken]
    assert isinstance(other, CommandError) and other.exit_code == 65
    assert str(other) == f"process {mistaken}: /data/Überraschung is missing"


def test_each_keeps_its_own_mistake_and_without_one_its_own_result(two):
    first, second = ConfigError("config.seed"), ConfigError("config.init")
    assert two(fails(first), fails(second)) == [first, second]
    assert two(lambda: "one", lambda: "two") == ["one", "two"]


def test_a_mistake_too_long_to_travel_arrives_cut(two):
    _, other = two(fails(CommandError("é" * 3000)), lambda: None)
    assert str(other) == "process 0: " + "é" * 2048 and other.exit_code == 2


def test_alone_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(agreement.multihost_utils, "process_allgather", None)
    assert agreement.together(lambda: 3) == 3
    with pytest.raises(ConfigError, match="mine"):
        agreement.together(fails(ConfigError("mine")))


class Left(BaseException):
    pass


@pytest.fixture
def leave(monkeypatch):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(agreement.os, "_exit", leave)


GLOO = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]")
SILENT = jax.errors.JaxRuntimeError("UNAVAILABLE: Task 1 heartbeat timeout")
OTHER = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.parametrize(
    "count, error, left",
    [(2, GLOO, True), (2, SILENT, True), (2, OTHER, False), (1, GLOO, False), (2, ConfigError("nccl"), False)],
)
def test_who_misses_another_process_leaves_with_69(monkeypatch, capsys, leave, count, error, left):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with pytest.raises(Left if left else type(error)) as raised, agreement.leaving_with_the_lost():
        raise error
    assert not left or raised.value.args == (69,)
    assert ("error: another process of the run is lost" in capsys.readouterr().err) == left
