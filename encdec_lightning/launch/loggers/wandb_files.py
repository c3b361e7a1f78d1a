"""What wandb has written into its own files: which steps of a run they hold, and what keeps it from reading them."""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7
"""Bytes of the file's header, and of that of each piece: check sum (4), length (2), kind (1)."""
BLOCK = 32768
"""Bytes after which a new piece begins; a record that is longer has several."""
WHOLE, FIRST, LAST = 1, 2, 4
STILL = 3.0
"""Seconds without a change after which nobody writes: wandb's own process outlives the training's for a moment."""


def files_of(folder: Path, run_id: str) -> list[Path]:
    """The files below a folder that wandb has written for a run, the first first."""
    return sorted(
        each for each in folder.glob(f"*run-*/run-{glob.escape(run_id)}.wandb") if not each.parent.is_symlink()
    )


def last_steps(file: Path, name: str) -> tuple[int, int]:
    """The last step of the history in a file, by wandb's count and by the value `name`; -1 where there is none."""
    rows = [each.history for each in records(file) if each.HasField("history")]
    values = (json.loads(item.value_json) for row in rows for item in row.item if name in (item.key, *item.nested_key))
    return max((row.step.num for row in rows), default=-1), max(values, default=-1)


def mend(file: Path) -> None:
    """Cut off half a record at the end of a file that nobody writes any more, or put a file aside that holds no run.

    `wandb sync` stops at such a file, and leaves out those that follow.
    """
    while 0 <= time.time() - file.stat().st_mtime < STILL:
        time.sleep(STILL / 10)
    if not any(each.HasField("run") for each in records(file)):
        file.rename(f"{file}.empty")
        return
    data = file.read_bytes()
    end = max(end for _, end in _contents(data))
    if end < len(data):
        os.truncate(file, end)


def records(file: Path) -> Iterator[Any]:
    """The records in a file, as far as it is whole: the pieces of LevelDB's log format, each record a message."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    for content, _ in _contents(file.read_bytes()):
        record: Any = vars(wandb_internal_pb2)["Record"]()  # whose names protobuf makes
        try:
            record.ParseFromString(content)
        except DecodeError:
            return
        yield record


def _contents(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each whole record, and where it ends."""
    at, held = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is empty
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        end = at + HEADER + length
        if not WHOLE <= kind <= LAST or end > len(data):
            return
        piece = data[at + HEADER : end]
        held = piece if kind in (WHOLE, FIRST) else held + piece
        at = end
        if kind in (WHOLE, LAST):
            yield held, end
