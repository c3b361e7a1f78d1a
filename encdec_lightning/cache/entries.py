"""What the cache holds: folders and small notes that appear whole, are checked when they are opened, and heal."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

SUMS = "sums.json"
BLOCK = 1 << 20  # bytes read at once
ABANDONED = 60.0  # seconds after which an unfinished note, the work of a moment, is one of a process that was killed
MISSING = "it is not there"


def entry(folder: Path, build: Callable[[Path], object]) -> None:
    """Make sure that a folder of the cache is there and whole: `build(new folder)` makes one that is not.

    Of several processes one builds and the others wait. The folder is written beside its place, down to the disk, and
    renamed, so that a killed process leaves nothing that counts; what such a one has left is removed. A damaged folder
    is replaced, which stderr tells. Raises `OSError` when the cache cannot be written.
    """
    if damage(folder) is None:
        clear(folder.parent)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        problem = damage(folder)  # another process may have built it meanwhile
        if problem is None:
            return
        if problem != MISSING:
            say(f"{folder} is damaged ({problem}): it is built anew")
        clear(folder.parent, held=folder.name)
        mark = os.urandom(4).hex()  # a child of a killed builder may still be writing into the folder it was given
        building, damaged = (folder.with_name(f".{name}-{folder.name}-{mark}") for name in ("building", "damaged"))
        try:
            build(building)
            _seal(building, folder.name)
            if os.path.lexists(folder):
                folder.rename(damaged)
            building.rename(folder)
            _sync(folder.parent)
        finally:
            for left in (building, damaged):
                with suppress(OSError):
                    remove(left)


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `entry` has made: None, `MISSING`, or words; every byte of it is read."""
    if not os.path.lexists(folder):
        return MISSING
    try:
        sums = _unsealed(_regular(folder / SUMS), folder.name)
        with ThreadPoolExecutor(max_workers=4) as pool:
            found = dict(zip(sums, pool.map(_sum, (folder / name for name in sums)), strict=True))
    except OSError as error:
        return f"{Path(error.filename or SUMS).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{SUMS} does not hold what was written"
    differing = [name for name in sums if found[name] != sums[name]]
    return f"{differing[0]} does not hold what was written" if differing else None


def clear(parent: Path, held: str | None = None) -> None:
    """Remove what killed processes have left of the folders in `parent`: of those whose locks are free, or `held`."""
    for left in [*parent.glob(".building-*-*"), *parent.glob(".damaged-*-*")]:
        key = left.name.split("-")[1]
        with suppress(Timeout, OSError):
            if key == held:
                remove(left)
            else:
                with FileLock(parent / f".{key}.lock").acquire(timeout=0):
                    remove(left)


def write_note(path: Path, value: Any) -> None:
    """Keep a plain value in a file of its own; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".note-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    temporary = path.with_name(f".note-{path.name}-{os.getpid()}")
    try:
        _write(temporary, _sealed(value, path.name))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_note(path: Path) -> Any:
    """The value that `write_note` has kept; None if there is none, or a damaged one, which stderr tells."""
    try:
        return _unsealed(_regular(path), path.name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{path} is damaged: what it says is found anew")
        return None


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(line: str) -> None:
    """A line on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with its process at the latest; waiting for it is said."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        say("waiting for another process that prepares the same examples")
        lock.acquire()
    except NotImplementedError:  # a file system without locks: some work is done twice
        pass
    try:
        yield
    finally:
        lock.release()


def _seal(folder: Path, key: str) -> None:
    """Write size and checksum of each file into `SUMS`, and everything down to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): _sum(path) for path in files}
    for path in files:
        _sync(path)
    _write(folder / SUMS, _sealed(sums, key))
    for path in (*(each for each in folder.rglob("*") if each.is_dir()), folder):
        _sync(path)


def _sum(path: Path) -> list[int]:
    """The size of a file in bytes and the XXH3 hash of its content, which takes little more than reading it."""
    checksum, size = xxhash.xxh3_64(), 0
    buffer = bytearray(BLOCK)
    with _regular(path).open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            checksum.update(memoryview(buffer)[:count])
            size += count
    return [size, checksum.intdigest()]


def _regular(path: Path) -> Path:
    """The path of a file; raises `OSError` for anything else, which could keep a reader waiting for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "it is no file", str(path))
    return path


def _sealed(value: Any, key: str) -> bytes:
    """A value as JSON with a checksum of itself and of the place it belongs to."""
    checksum = xxhash.xxh3_64_intdigest(json.dumps([key, value]).encode())
    return (json.dumps({"value": value, "checksum": checksum}, indent=1) + "\n").encode()


def _unsealed(path: Path, key: str) -> Any:
    content = path.read_bytes()
    value = json.loads(content)["value"]
    if content != _sealed(value, key):
        raise ValueError("it does not hold what was written")
    return value


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
