"""Signals set a flag inside the block and are given back after it."""

import os
import signal

import pytest

from harmopower.training.signals import LateMaximum, StopSignal


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_is_remembered(number, code):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested() and not stop.agreed()
        os.kill(os.getpid(), number)
        assert stop.requested() and stop.agreed() and stop.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once():
    with StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_maximum_comes_one_exchange_late():
    told = LateMaximum()
    assert [told.exchange(number) for number in (0, 15, 0, 2)] == [0, 0, 15, 0]
