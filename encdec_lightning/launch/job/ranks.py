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

    Without them rank 0 fails in a communication or waits in one for ever; after some seconds Lightning kills it. Raises
    `JobFailed` instead of what follows from another rank's end. `ranks` gives their processes, none before their start.
    """
    ended, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            codes = [(rank, each.poll()) for rank, each in enumerate(ranks(), start=1)]
            died = [(rank, code) for rank, code in codes if code not in (None, 0, INTERRUPTED, TERMINATED)]
            if died:
                if run.status().get("state") == "running":  # it could not say so itself
                    run.set_state("failed", f"its rank {died[0][0]} ended with {described(died[0][1] or 0)}")
                over.set()
                return

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
