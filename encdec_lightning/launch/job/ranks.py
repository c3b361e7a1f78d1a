"""The further ranks of a distributed run, watched by rank 0 and ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from encdec_lightning.errors import INTERRUPTED, TERMINATED, JobFailed, UserError, UserErrors
from encdec_lightning.run import Run

Ranks = Callable[[], Sequence["subprocess.Popen[bytes]"]]
LEFT = 2.0  # seconds that further ranks have after rank 0 has ended without being asked to
REASON = 10.0  # seconds within which a failure of rank 0 may turn out to follow from the end of another rank


def further_ranks(trainer: Any) -> Ranks:
    """The processes that Lightning starts for a Trainer beside this one, at any moment."""
    return lambda: list(getattr(trainer.strategy.launcher, "procs", []))


@contextmanager
def ranks_watched(run: Run, ranks: Ranks) -> Iterator[None]:
    """While rank 0 works in the block, further ranks that die fail the run, and their end is the reason it gives.

    Without them rank 0 fails in a communication or waits in one for ever; within five seconds Lightning, which looks
    at them too, kills them all and then rank 0. So the reason is written at the latest when that begins. Raises
    `JobFailed` instead of what follows from another rank's end. `ranks` gives their processes, none before their start.
    """
    ended, over, looking = threading.Event(), threading.Event(), threading.RLock()

    def look() -> None:
        with looking:
            codes = [(rank, each.poll()) for rank, each in enumerate(ranks(), start=1)]
            died = [(rank, code) for rank, code in codes if code not in (None, 0, INTERRUPTED, TERMINATED)]
            if died and not over.is_set():
                if run.status().get("state") == "running":  # it could not say so itself
                    run.set_state("failed", f"its rank {died[0][0]} ended with {described(died[0][1] or 0)}")
                over.set()

    def watch() -> None:
        signalled: list[subprocess.Popen[bytes]] = []
        while not ended.wait(0.1) and not over.is_set():
            for rank in ranks():
                if rank not in signalled:
                    _before_signals(rank, look)
                    signalled.append(rank)
            look()

    watcher = threading.Thread(target=watch, name="ranks", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError | UserErrors) and ranks() and over.wait(REASON):
            raise JobFailed(f"The run {run.folder} failed: {run.status().get('error')}") from error
        raise
    finally:
        ended.set()
        watcher.join()


def _before_signals(process: subprocess.Popen[bytes], call: Callable[[], None]) -> None:
    """Let `call` return before any signal is sent to the process."""
    send_signal = process.send_signal

    def called_first(sig: int) -> None:
        call()
        send_signal(sig)

    process.send_signal = called_first  # type: ignore[method-assign]


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, none while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; raises `subprocess.TimeoutExpired` after so many seconds."""

    def send_signal(self, sig: int) -> None:
        """Nothing where it has ended."""


def end_group(worker: Process) -> None:
    """Kill what is left of a worker and its further ranks, which have a moment to end, unless they were asked to."""
    asked = worker.poll() in (None, INTERRUPTED, TERMINATED)
    until = time.monotonic() + (0 if asked else LEFT)
    with suppress(OSError):  # the group is empty
        while time.monotonic() < until:
            os.killpg(worker.pid, 0)
            time.sleep(0.02)
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def described(code: int) -> str:
    """How a process ended, in words."""
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
