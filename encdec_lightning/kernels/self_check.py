"""Whether torch's private parts still are what a kernel takes them for: asked when the kernel is first used."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)


def self_check(kernel: str, instead: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Make a small probe, true where a kernel's facts hold, a check that runs once in a process.

    A probe that gives false or raises switches the kernel off, and a line in the log says what runs instead. It must
    draw no random numbers and take milliseconds: it runs inside a step of training or generation.
    """

    def made(probe: Callable[[], bool]) -> Callable[[], bool]:
        @functools.cache
        def holds() -> bool:
            why = "another result"
            try:
                with torch.device("cpu"), torch.no_grad(), torch.autocast("cpu", enabled=False):
                    if probe():
                        return True
            except Exception as error:  # whatever a torch of another version raises
                why = f"{type(error).__name__}: {error}".splitlines()[0]
            said = "torch %s on this machine does not do what was expected, so %s is off and %s: %s"
            log.warning(said, torch.__version__, kernel, instead, why)
            return False

        return holds

    return made
