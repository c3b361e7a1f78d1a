"""Workers of a sweep's points that need not load anything: they are forked from a process that has.

Loading torch, Lightning and transformers takes some seconds, most of the time of a small job. A nursery does it once,
while the sweep's points are checked. It never runs a job itself, and starts no thread of torch's and no CUDA, so that
what it forks is as good as a new process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from encdec_lightning.signals import GRACE

WORKER = "encdec_lightning.launch.worker"
"""The module whose process does a job, or forks those that do."""
FORK = "--fork"
"""Its argument in a nursery, before the number of the socket."""
NUMBER = struct.Struct("!q")
"""How numbers are sent: a worker's process, and then its exit code."""
SET_BY_LIBRARIES = (
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCHINDUCTOR_CACHE_DIR",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
)
"""Variables that a process has after it has loaded Lightning and others."""
REQUEST = 1 << 16
"""Bytes of the longest path of a run."""


class Forked:
    """A worker that a nursery has forked; the nursery tells its end."""

    def __init__(self, pid: int, nursery: socket.socket) -> None:
        self.pid, self._nursery = pid, nursery
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """As of `subprocess.Popen`."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As of `subprocess.Popen`; where the nursery has been killed, -SIGKILL, once the worker has ended too."""
        if self.returncode is None:
            if not select.select([self._nursery], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(WORKER, timeout or 0)
            code = received(self._nursery, socket.MSG_PEEK)  # it stays there, whatever interrupts here
            self.returncode = self._killed() if code is None else code
        return self.returncode

    def _killed(self) -> int:
        """The worker follows its nursery, and ends in order."""
        end = time.monotonic() + GRACE
        with suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.kill(self.pid, 0)
                time.sleep(0.05)
        return -signal.SIGKILL

    def send_signal(self, sig: int) -> None:
        """As of `subprocess.Popen`."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


class Nursery:
    """A process that loads what jobs need, and forks their workers, one after the other."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._surroundings = _surroundings()
        self._last: Forked | None = None
        self._is_whole = True
        with theirs:
            command = [sys.executable, "-m", WORKER, FORK, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )

    def worker(self, folder: Path, lock: int) -> Forked | None:
        """A new worker for the job of a run, a process group of its own, which holds the run's lock.

        None where it must be an ordinary process: another one is at work, the environment or the working folder has
        changed since, or the nursery is gone.
        """
        if not self._is_whole:
            return None
        busy = self._last is not None and self._last.poll() is None
        request = os.fsencode(folder.absolute())
        if busy or self._surroundings != _surroundings() or len(request) > REQUEST:
            return None
        self._is_whole = False  # until the answer has come, whatever interrupts
        try:
            if self._last is not None:
                received(self._socket)  # its exit code
            socket.send_fds(self._socket, [request], [lock])
            pid = received(self._socket)
        except OSError:
            pid = None
        except BaseException:
            self.close()  # or it would begin what nobody waits for
            raise
        if pid is None:
            return None
        self._is_whole = True
        self._last = Forked(pid, self._socket)
        return self._last

    def close(self) -> None:
        """End it, with what it may still be doing."""
        self._is_whole = False
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()


_OPEN: list[Nursery] = []


@contextmanager
def nursery() -> Iterator[None]:
    """Inside the block, `forked` has a nursery, which starts to load at once."""
    made = Nursery()
    _OPEN.append(made)
    try:
        yield
    finally:
        _OPEN.remove(made)
        made.close()


def forked(folder: Path, lock: int) -> Forked | None:
    """`Nursery.worker` of the nursery that is open in this process; none where there is none."""
    return _OPEN[-1].worker(folder, lock) if _OPEN else None


def received(connection: socket.socket, flags: int = 0) -> int | None:
    """A number that the other side sends; none if it has ended."""
    with suppress(ConnectionError):
        sent = connection.recv(NUMBER.size, flags | socket.MSG_WAITALL)
        if len(sent) == NUMBER.size:
            return int(NUMBER.unpack(sent)[0])
    return None


def sent(connection: socket.socket, number: int) -> None:
    """Send a number to the other side, if that has not ended."""
    with suppress(ConnectionError):
        connection.sendall(NUMBER.pack(number))


def _surroundings() -> tuple[dict[str, str], str]:
    """What a process inherits when it starts, and a forked one had before."""
    return {name: value for name, value in os.environ.items() if name not in SET_BY_LIBRARIES}, str(Path.cwd())
