"""What wandb has written into its own files: which steps of a run they hold."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7
"""Bytes of the file's header, and of that of each piece: check sum (4), length (2), kind (1)."""
BLOCK = 32768
"""Bytes after which a new piece begins; a record that is longer has several."""
WHOLE, FIRST, LAST = 1, 2, 4


def last_step(folder: Path, run_id: str) -> int:
    """The last step of a run's history that files below `folder` hold; -1 where they hold none."""
    steps = [-1]
    for file in folder.glob(f"*/run-{glob.escape(run_id)}.wandb"):
        for each in records(file):
            if each.HasField("history"):
                steps.append(each.history.step.num)
    return max(steps)


def records(file: Path) -> Iterator[Any]:
    """wandb's records of a file, as far as it is whole: the pieces of LevelDB's log format, each record a message."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _contents(file.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:
            return
        yield record


def _contents(data: bytes) -> Iterator[bytes]:
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
            yield held
