"""SIGTERM as an exception, at once or where ending is safe; children that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from encdec_lightning import signals
from encdec_lightning.signals import Terminated, Termination


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_raises_once_and_the_handler_goes():
    before, termination = signal.getsignal(signal.SIGTERM), Termination()
    with pytest.raises(Terminated), termination.handled():
        try:
            terminate()
        finally:
            assert termination.asked
            terminate()  # while it ends already
    assert signal.getsignal(signal.SIGTERM) is before
    assert not termination.asked
    termination.take_over()  # only inside
    assert signal.getsignal(signal.SIGTERM) is before


def test_deferred_it_waits_for_a_safe_place():
    termination = Termination()
    with pytest.raises(Terminated), termination.handled():
        termination.deferred = True
        termination.check()
        terminate()
        reached = termination.asked
        termination.check()
    assert reached


def test_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.1)
    termination = Termination()
    with pytest.raises(Terminated), termination.handled():
        termination.deferred = True
        terminate()
        time.sleep(30)


def test_the_patience_of_one_request_does_not_end_a_later_one(monkeypatch):
    """A second run in one process was cut short when both requests were less than `PATIENCE` apart."""
    termination = Termination()
    for patience in (2, 60):
        monkeypatch.setattr(signals, "PATIENCE", patience)
        with termination.handled():
            termination.deferred = True
            terminate()
            time.sleep(0 if patience < 10 else 2.5)
            assert termination.asked and termination.deferred


def test_a_handler_in_front_is_set_aside():
    termination = Termination()
    with pytest.raises(Terminated), termination.handled():
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("another's handler"))
        termination.take_over()
        terminate()


def test_outside_the_main_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        termination = Termination()
        with termination.handled():
            termination.take_over()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


FORK = """
import os, signal, time
from encdec_lightning.signals import TERMINATION
with TERMINATION.handled():
    child = os.fork()
    if not child:
        time.sleep(60)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), TERMINATION.asked)
"""
CHAIN = """
import subprocess, sys, time
from encdec_lightning.signals import follow_parent
follow_parent(poll=0.02)
depth = int(sys.argv[2])
child = depth and subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1], str(depth - 1)])
print("ready", flush=True)
time.sleep(60)
"""


def test_a_forked_child_ends_as_others_do():
    result = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert result.stdout == "-15 False\n"


def test_children_and_theirs_end_with_their_parent():
    parent = subprocess.Popen([sys.executable, "-c", CHAIN, CHAIN, "2"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    for _ in range(3):
        assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    assert parent.stdout.read() == b""  # once the last that holds it has ended
    parent.wait()
    parent.stdout.close()


def test_a_batch_systems_request_is_the_same_and_forked_children_live_on():
    termination = Termination()
    with pytest.raises(Terminated), termination.handled():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGUSR1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert not termination.asked
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            assert termination.number == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
