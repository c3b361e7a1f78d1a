"""The lines of a stream of bytes, and the row that one of them is."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from encdec_lightning.errors import UserError

LONGEST_LINE = 1 << 28  # bytes: several times the longest text that is tokenized, and no file of one endless line


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its number in the file, counted from 1, and its values by column, or why it has none."""

    number: int
    place: str
    """Words that name it in a sentence: task.train line 7."""
    values: dict[str, Any] = field(default_factory=dict)
    problem: UserError | None = None


def lines_of(name: str, stream: Iterable[bytes]) -> Iterator[tuple[Row, str]]:
    """Each line as an empty row and its text, ended by LF or CR LF alone: no other sign ends a line."""
    for number, line in enumerate(_bounded(name, stream), start=1):
        place = f"{name} line {number}"
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield Row(number, place), line.decode()
        except UnicodeDecodeError:
            yield Row(number, place, problem=UserError(place, excerpt(line), "it must be UTF-8")), ""


def _bounded(name: str, stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream; raises `UserError` for one that is longer than any text, before all of it is read."""
    read = getattr(stream, "readline", None)
    for line in stream if read is None else iter(lambda: read(LONGEST_LINE + 1), b""):
        if len(line) > LONGEST_LINE:
            raise line_too_long(name)
        yield line


def line_too_long(name: str) -> UserError:
    """The mistake of an input with a line that is longer than any text."""
    return UserError(name, f"a line of more than {LONGEST_LINE:,} bytes", "it must have line ends between its texts")


def filled_lines(name: str, stream: Iterable[bytes]) -> Iterator[tuple[Row, str]]:
    """The lines without the empty ones, which hold no row."""
    return (each for each in lines_of(name, stream) if each[0].problem or each[1].strip(" "))


def excerpt(line: bytes) -> str:
    """The start of a line, legible."""
    return line[:60].decode("utf-8", errors="replace").rstrip()
