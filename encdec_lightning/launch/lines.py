"""The lines of `encdec-predict`: a source each in its input, texts in its output."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper, UnsupportedOperation
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

PAUSE = 0.1  # seconds without input
SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")


class Answer(NamedTuple):
    """A text for a source, and its score."""

    text: str
    score: float


def read_sources(lines: TextIO, name: str, column: str, pauses: bool = False) -> Iterator[Pair | None]:
    """A pair without a target for each line, its id the line's number; raises `UserError` when there is no line.

    With `pauses` a None where standard input has nothing more to read yet.
    """
    number = 0
    for line in _live(lines) if pauses and name == "-" else lines:
        if line is None:
            yield None
            continue
        number += 1
        text: object = line.strip()
        if name.endswith(".jsonl"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"input line {number}", line[:60].rstrip(), f"it must be JSON ({error.msg})") from None
            text = row.get(column) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip() or any("\ud800" <= sign <= "\udfff" for sign in text):
            what = f"its column {column!r} must be" if name.endswith(".jsonl") else "it must be"
            raise UserError(f"input line {number}", line[:60].rstrip(), f"{what} a text that is not empty")
        yield Pair(str(number), text, "")
    if number == 0:
        raise UserError("input", name, "it is empty")


def windows(pairs: Iterable[Pair | None], size: int) -> Iterator[list[Pair]]:
    """So many pairs at a time, fewer at the end and where there is a pause."""
    window: list[Pair] = []
    for pair in pairs:
        if pair is not None:
            window.append(pair)
        if window and (pair is None or len(window) == size):
            yield window
            window = []
    if window:
        yield window


def written(pair: Pair, answers: list[Answer], text: bool, scores: bool) -> str:
    """The line of a source with one answer, or its lines with several: JSON, or plain text."""
    if text:
        name = [pair.id] if len(answers) > 1 else []
        rows = [[*name, *([f"{each.score:.6f}"] if scores else []), each.text.translate(SPACES)] for each in answers]
        return "".join("\t".join(row) + "\n" for row in rows)
    found: list[dict[str, Any]] = [
        {"prediction": each.text, **({"score": round(each.score, 6)} if scores else {})} for each in answers
    ]
    several = {"predictions": found} if len(found) > 1 else found[0]
    return json.dumps({"id": pair.id, "source": pair.source, **several}, ensure_ascii=False) + "\n"


@contextmanager
def opened(name: str) -> Iterator[TextIO]:
    """The input as text; raises `UserError` when it is not UTF-8."""
    if name == "-" and isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # in the C locale Python lets any byte through
    try:
        with nullcontext(sys.stdin) if name == "-" else Path(name).open(encoding="utf-8") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError("input", name, "it must be UTF-8") from error


def _live(lines: TextIO) -> Iterator[str | None]:
    """The lines of a pipe or a terminal that nothing was read from yet, and None at a pause."""
    try:
        descriptor = lines.fileno()
    except (AttributeError, UnsupportedOperation):
        yield from lines
        return
    rest = b""
    while True:
        if not select.select([descriptor], [], [], PAUSE)[0]:
            yield None
        block = os.read(descriptor, 1 << 16)
        if not block:
            break
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in whole)
    if rest:
        yield rest.decode()
