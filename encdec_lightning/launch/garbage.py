"""How often a process looks for unused objects."""

from __future__ import annotations

import atexit
import gc

RARELY = (10_000, 10, 10)
"""How often Python looks for unused objects, as `gc.set_threshold` takes it; Python's own is 700."""


def collect_rarely() -> None:
    """Let this process look for unused objects rarely, and not at its end.

    What is imported lives to the end: looking for unused objects in it takes a sixth of the start, and at the end, when
    the memory is the system's again anyhow, more than a second.
    """
    gc.set_threshold(*RARELY)
    atexit.register(gc.freeze)
