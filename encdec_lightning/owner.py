"""Who works in a folder: a file of that name, made by one process alone, also where nodes share the folder.

`flock` tells processes of one machine apart. Between machines the file system decides: NFS asks its server, unless it
is mounted with `nolock` or `local_lock`; Lustre does with its mount option `flock` alone; some systems refuse it. On
all of them a file gets a second name (link) once. Its process rewrites it every few seconds; one that stays
as it is for `STILL` seconds, on the clock of whoever waits, is that of a process that is gone. No two files ever say
the same, so that short works that follow each other are not taken for one that stands still.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWNER = ".owner"  # the file's name
BEAT = 5.0  # seconds between two signs of life
STILL = 60.0  # seconds without one after which another machine takes over
LOST = 1
ENDING = 60.0  # seconds that the processes of a killed one have to end


class Taken(Exception):
    """Another process works there; `str()` says which."""


@contextmanager
def owned(file: Path, flocked: bool) -> Iterator[None]:
    """Hold `file`, which is there for as long as this process works; raises `Taken`, or `OSError` if it cannot be.

    `flocked`: this process holds a lock of `flock` on the folder, so that no other one of this machine works there.
    Then what a killed process of this machine has left is taken over at once; what one of another machine has left,
    when it has been still for `STILL` seconds.
    """
    work = secrets.token_hex(8)
    descriptor = _made(file, flocked, work)
    over = threading.Event()
    keeper = threading.Thread(target=_beat, args=(file, descriptor, work, over), name="owner", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        with suppress(OSError):
            if _is_at(file, descriptor):
                file.unlink()
        os.close(descriptor)


def _made(file: Path, flocked: bool, work: str) -> int:
    """The descriptor of the file, new."""
    own = file.with_name(f"{file.name}.{os.getpid()}{threading.get_ident()}")
    descriptor = os.open(own, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        _write(descriptor, work, 0)
        while not _named(own, file, descriptor):
            left = _left(file, flocked)
            if left is not None and _taken_over(own, file, left):
                break
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        own.unlink(missing_ok=True)
    return descriptor


def _named(own: Path, file: Path, descriptor: int) -> bool:
    """Give a file its name whole, if no other file has it; a second name is given once on every file system."""
    try:
        os.link(own, file)
    except FileExistsError:
        return _is_at(file, descriptor)  # NFS may do it and lose the answer
    except OSError:  # a file system without second names, where renaming is seen by all at once
        if file.exists():
            return False
        own.rename(file)
    return True


def _left(file: Path, flocked: bool) -> bytes | None:
    """What the file holds, once it is known that its process is gone; None if the file is; raises `Taken`."""
    first = _content(file)
    if first is None:
        return None
    told = _read(first)
    if told.get("machine") == machine() and (flocked or not _is_alive(told.get("process"))):
        return first
    whose = f"process {told.get('process')} on {told.get('host')}"
    said = False
    for waited in _waits(min(1.0, STILL / 10)):
        now = _content(file)
        if now is None:
            return None
        if now != first:
            raise Taken(f"process {_read(now).get('process')} on {_read(now).get('host')}")
        if not said and waited > 2 * BEAT:
            said = True
            print(f"{file.parent} was left by {whose}: waiting {STILL:.0f} s for a sign of life.", file=sys.stderr)
    return first


def _taken_over(own: Path, file: Path, left: bytes) -> bool:
    """Put our file in the place of one with this content, whose process is gone; false where another one does so.

    Whoever makes the claim to this content may do it: a file that one process alone can make, so that of several that
    have seen the same one replaces it, and none replaces what that one has put there. A claim whose process is gone
    too is passed over for the next; a process that was held up for so long that this may have happened to it gives up.
    """
    number, name = 0, hashlib.sha256(left).hexdigest()[:16]
    while True:
        claim = file.with_name(f"{file.name}.{name}.{number}")
        try:
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if not _is_abandoned(claim, file, left):
                return False
            number += 1
            continue
        began = time.monotonic()
        try:
            os.pwrite(descriptor, _told(), 0)
            if _content(file) != left:  # somebody had the claim before, and is done
                return False
            if time.monotonic() - began > STILL / 2:
                return False
            own.replace(file)
            return True
        finally:
            os.close(descriptor)
            for each in range(number + 1):
                file.with_name(f"{file.name}.{name}.{each}").unlink(missing_ok=True)


def _is_abandoned(claim: Path, file: Path, left: bytes) -> bool:
    """Whether the process that has made a claim is gone; false as soon as the claim or what it is for is."""
    for _ in _waits(STILL / 600):
        content = _content(claim)
        if content is None or _content(file) != left:
            return False
        told = _read(content)
        if told.get("machine") == machine() and not _is_alive(told.get("process")):
            return True
    return True


def _waits(step: float) -> Iterator[float]:
    """Sleep `step` seconds at a time for `STILL` seconds, with those that are over.

    A machine that stands still stops whoever waits as well, so sleeps are counted, and not what a clock says after.
    """
    for number in range(1, math.ceil(STILL / step) + 1):
        time.sleep(step)
        yield number * step


def _beat(file: Path, descriptor: int, work: str, over: threading.Event) -> None:
    """Signs of life until it is over. A process that was still for so long that it has lost the file ends at once."""
    number = 0
    while not over.wait(BEAT):
        number += 1
        with suppress(OSError):
            _write(descriptor, work, number)
            if not _is_at(file, descriptor) and not over.wait(min(BEAT, 1.0)) and not _is_at(file, descriptor):
                text = "this process was still for so long that another one works there now; it ends"
                print(f"{file.parent}: {text}.", file=sys.stderr, flush=True)
                os._exit(LOST)


def _write(descriptor: int, work: str, number: int) -> None:
    os.pwrite(descriptor, _told(work=work, beat=f"{number:09}"), 0)
    with suppress(OSError):
        os.fsync(descriptor)  # a network file system would keep it for itself


def _told(**more: str) -> bytes:
    return json.dumps({"process": os.getpid(), "host": socket.gethostname(), "machine": machine(), **more}).encode()


def _is_at(file: Path, descriptor: int) -> bool:
    """Whether the open file still has its name; where nobody can tell, it has."""
    own = os.fstat(descriptor)
    try:
        there = file.stat()
    except FileNotFoundError:
        return False
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _content(file: Path) -> bytes | None:
    """Opening a file anew makes a network file system ask its server."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _read(content: bytes) -> dict[str, object]:
    with suppress(ValueError):
        told = json.loads(content)
        return told if isinstance(told, dict) else {}
    return {}


def _is_alive(process: object) -> bool:
    try:
        os.kill(int(str(process)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def machine() -> str:
    """This machine since its start; containers of one machine are one."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


def flocked(descriptor: int, owner: Path) -> bool:
    """Take the lock of `flock`, which ends with the process; false on a file system that has none; raises `Taken`.

    Where `owner`, the file of `owned`, is that of a process of this machine that was killed, processes that it has
    started are about to end, and are waited for.
    """
    until, said = time.monotonic() + ENDING, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            told = _read(_content(owner) or b"")
            killed = told.get("machine") == machine() and not _is_alive(told.get("process"))
            if not killed or time.monotonic() > until:
                raise Taken("a process of this machine, or of one that shares the folder") from error
            if not said:
                said = True
                print(f"{owner.parent}: waiting for the processes of a killed one to end.", file=sys.stderr)
            time.sleep(0.1)
        except OSError:
            return False
        else:
            return True
