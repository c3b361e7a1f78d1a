"""SIGTERM and SIGUSR1, which ask a process to end, as an exception; and processes that end when their parent does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_VARIABLE = "ENCDEC_LIGHTNING_GRACE"
"""The environment variable that says how much time the system gives a process, where that is known."""
GRACE = float(os.environ.get(GRACE_VARIABLE, "20"))
"""Seconds that a process has between the request to end and its death by force."""
PATIENCE = GRACE / 2
"""Seconds for which the end may be deferred."""
REQUESTS = (signal.SIGTERM, signal.SIGUSR1)
"""What asks a process to end: SIGUSR1 is a batch system's, which says that the time is over soon."""
PARENT = "ENCDEC_LIGHTNING_PARENT"
"""The environment variable that names the process whose end is also this process's end."""


class Terminated(BaseException):
    """The process was asked to end."""


class Termination:
    """The handler of SIGTERM and SIGUSR1: it raises `Terminated` in the main thread, once.

    While `deferred` is set it only remembers the request, and a place where ending is safe reads `asked`; if no such
    place comes within `PATIENCE`, it raises where the process is.
    """

    def __init__(self) -> None:
        self.asked = self.deferred = self._raised = False
        self.number = 0
        self._owner = 0
        self._timer: threading.Timer | None = None

    def __call__(self, number: int, frame: object) -> None:
        """Python calls this in the main thread after the signal `number` has come."""
        if os.getpid() != self._owner:  # a forked child, which has work of its own
            if number == signal.SIGUSR1:  # batch systems send it to all processes; the first one ends its children
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first, self.asked = not self.asked, True
        self.number = self.number or number
        if not self.deferred and not self._raised:
            self._raised = True
            raise Terminated
        if first:
            self._timer = threading.Timer(PATIENCE, self._insist)
            self._timer.daemon = True
            self._timer.start()

    def _insist(self) -> None:
        if self.asked and self.deferred:
            self.deferred = False
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Requests come here inside the block. Does nothing outside the main thread, where Python takes no signals."""
        self._forget()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._owner = os.getpid()
        previous = {number: signal.signal(number, self) for number in REQUESTS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._forget()
            self._owner = 0

    def take_over(self) -> None:
        """Be the only handler again inside `handled`, after a library has put one of its own in front."""
        if self._owner == os.getpid() and threading.current_thread() is threading.main_thread():
            for number in REQUESTS:
                signal.signal(number, self)

    def check(self) -> None:
        """Raise `Terminated` if the end was asked for while it was deferred."""
        if self.asked:
            self._raised = True
            raise Terminated

    def _forget(self) -> None:
        if self._timer is not None:  # else it would insist on a later request of this process
            self._timer.cancel()
            self._timer = None
        self.asked = self.deferred = self._raised = False
        self.number = 0


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
