"""What the system tells about its processor."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


@functools.cache
def told() -> Mapping[str, str]:
    """The lines of the last core in `/proc/cpuinfo`, by their names; none on a system that has no such file."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def instruction_sets() -> set[str]:
    """Their names, as the system gives them."""
    return set((told().get("flags") or told().get("Features") or "").split())
