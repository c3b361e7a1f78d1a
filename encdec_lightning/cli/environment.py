"""What the environment of a command says to the libraries that it loads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

BEFORE_TORCH = {
    "GOMP_SPINCOUNT": "10000",
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
"""What a process's environment says on CPU when torch is loaded, unless the user chooses otherwise.

OpenMP's threads wait some microseconds at barriers, then sleep: spinning for long beside one busy process on two cores
makes training ten times slower, sleeping at once a fifth slower. Of the code compiled for matrix products of each
shape, a step's is kept: batches differ in length, and the 1,024 shapes that torch keeps are half a gigabyte, scattered
between what a step allocates, and no faster.
"""

GLIBC, PRELOADED = "GLIBC_TUNABLES", "LD_PRELOAD"
"""Variables by which a user, or this package, chooses how memory is allocated: glibc's settings, another allocator."""
GLIBC_SETTINGS = {
    GLIBC: "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
    ":glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=8589934592"
}
"""What the environment says when a process begins that computes, to the allocator of glibc, which reads it only then.

Small pieces that were freed are joined with their neighbours: else they keep large ones apart, and a step finds no
room between them. Memory that was freed stays the process's: else generation gets and clears 130 MB of it again and
again. Training takes a tenth to a quarter less memory above weights and optimizer states (experiments/speed).
"""
TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
"""Google's allocator, which keeps pieces of each size together. Where it is installed it is taken instead: training
takes a quarter less memory again, and is faster (experiments/speed). So does `torch.backends.xeon.run_cpu`."""
TCMALLOC_SETTINGS = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 62)}
"""Else it reports on stderr every allocation of a gigabyte or more, such as a large embedding's gradient."""
QUICK = ("-h", "--help", "--cfg", "predictions=")
"""Arguments, or their beginnings, with which a command computes little."""


def set_environment() -> None:
    """Say what is to be said before torch is loaded."""
    for name, value in BEFORE_TORCH.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(name, value)


def start_again(command: str) -> None:
    """Start a command from the beginning, in the same process, with what it must find in its environment.

    Nothing happens where that is there already, or the user has chosen an allocator; where the C library is another
    one; under a debugger; and where the process runs anything but `encdec-<command>`, or its module with `python -m`.
    """
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    module = getattr(specification, "name", None)
    is_it = Path(sys.argv[0]).name == f"encdec-{command}" or module == f"encdec_lightning.cli.{command}"
    chosen = GLIBC in os.environ or PRELOADED in os.environ
    is_quick = any(argument.startswith(QUICK) for argument in sys.argv[1:])
    if not is_it or chosen or is_quick or _is_watched() or not sys.executable or not _has_glibc():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], before_start() | os.environ)


def before_start() -> dict[str, str]:
    """What the environment of a process that computes says to its allocator: that it is tcmalloc, or glibc's settings.

    Nothing where the C library is not glibc.
    """
    if not _has_glibc():
        return {}
    return next((each for each in map(_preloading, _tcmallocs()) if _is_sound(each)), GLIBC_SETTINGS)


def _tcmallocs() -> Iterator[str]:
    """The paths of the library, wherever it is installed, that `LD_PRELOAD` can hold."""
    told = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    own = [f"{prefix}/lib" for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]  # conda's environment
    system = ["/usr/local/lib", *sorted(map(str, Path("/usr/lib").glob("*-linux-gnu*"))), "/usr/lib64", "/usr/lib"]
    for folder in (*told, *own, *system):
        for name in TCMALLOC:
            path = f"{folder}/{name}"
            if not set(path) & set(" :\t\n") and Path(path).is_file():  # which part the paths of the variable
                yield path


def _preloading(library: str) -> dict[str, str]:
    return {PRELOADED: library} | TCMALLOC_SETTINGS


def _is_sound(environment: dict[str, str]) -> bool:
    """Whether a process begins with it: not with a library for other processors, or one that lacks what it needs."""
    import subprocess

    command = [sys.executable, "-I", "-S", "-c", ""]
    with suppress(OSError):
        tried = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)
        return tried.returncode == 0 and not tried.stderr
    return False


def _is_watched() -> bool:
    """Whether a debugger or a profiler follows this process; it would lose it."""
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    tools = monitoring and any(monitoring.get_tool(number) is not None for number in range(6))
    return bool(tools) or sys.gettrace() is not None or sys.getprofile() is not None


def _has_glibc() -> bool:
    with suppress(AttributeError, OSError, ValueError):  # elsewhere it has no such name, or no value
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    return False
