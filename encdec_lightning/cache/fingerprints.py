"""Hashes of the content of files and of plain values; those of files are remembered in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from encdec_lightning.cache.entries import read_note, say, write_note

SETTLED = 2.0  # seconds since a file's last change, within which another change may leave its times as they are


def file_hash(file: Path, cache: Path, fresh: bool = False) -> str:
    """The sha256 of a file's content, remembered for as long as its `state` stays the same.

    `fresh` reads the content whatever is remembered, and tells on stderr if that was another: a disk that fails changes
    a file and leaves its times. Raises `OSError`.
    """
    with file.open("rb") as stream:
        state = _state(os.fstat(stream.fileno()))  # of the open file: then network file systems ask their server
        note = cache / "hashes" / hash_of([str(file.resolve()), *state])
        remembered = read_note(note)
        if isinstance(remembered, str) and not fresh:
            return remembered
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        at_rest = _state(os.fstat(stream.fileno())) == state
    if remembered not in (None, found):
        say(f"{file} has changed although its times have not: what was made of it before is not used")
    if at_rest and remembered != found and time.time() - max(state[1:3]) / 1e9 > SETTLED:
        with suppress(OSError):  # it is only forgotten; building finds out that the cache cannot be written
            write_note(note, found)
    return found


def state(file: Path) -> list[int]:
    """What changes with every change of a file: size, both times, inode and device.

    The time of the inode's change cannot be set back, unlike that of the content's.
    """
    return _state(file.stat())


def _state(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def hash_of(values: list[Any]) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
