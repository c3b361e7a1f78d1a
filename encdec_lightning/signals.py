"""SIGTERM, which asks a process to end, as an exception; and processes that end when their parent does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

GRACE = 20.0
"""Seconds that a process has between the request to end and its death by force."""
PATIENCE = 10.0
"""Seconds for which the end may be deferred."""
PARENT = "ENCDEC_LIGHTNING_PARENT"
"""The environment variable that names the process whose end is also this process's end."""


class Terminated(BaseException):
    """The process was asked to end."""


class Termination:
    """The handler of SIGTERM: it raises `Terminated` in the main thread, once.

    While `deferred` is set it only remembers the request, and a place where ending is safe reads `asked`; if no such
    place comes within `PATIENCE`, it raises where the process is.
    """

    def __init__(self) -> None:
        self.asked = self.deferred = self._raised = False
        self._owner = 0

    def __call__(self, number: int, frame: object) -> None:
        """Python calls this in the main thread after the signal `number` has come."""
        if os.getpid() != self._owner:  # a forked child, which has work of its own
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first, self.asked = not self.asked, True
        if not self.deferred and not self._raised:
            self._raised = True
            raise Terminated
        if first:
            timer = threading.Timer(PATIENCE, self._insist)
            timer.daemon = True
            timer.start()

    def _insist(self) -> None:
        if self.asked and self.deferred:
            self.deferred = False
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """SIGTERM comes here inside the block. Does nothing outside the main thread, where Python takes no signals."""
        self._forget()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._owner = os.getpid()
        previous = signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
            self._forget()
            self._owner = 0

    def take_over(self) -> None:
        """Be the only handler again inside `handled`, after a library has put one of its own in front."""
        if self._owner == os.getpid() and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self)

    def check(self) -> None:
        """Raise `Terminated` if the end was asked for while it was deferred."""
        if self.asked:
            self._raised = True
            raise Terminated

    def _forget(self) -> None:
        self.asked = self.deferred = self._raised = False


TERMINATION = Termination()
"""The one of this process, as a process has one handler for a signal."""


def follow_parent(poll: float = 0.25) -> None:
    """End this process after its parent has ended, however that came: by SIGTERM to itself, after `GRACE` by force.

    The children that are started from now on follow this process when they call this function too.
    """
    parent = int(os.environ.get(PARENT) or os.getppid())
    os.environ[PARENT] = str(os.getpid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
