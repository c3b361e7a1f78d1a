"""The lines of `encdec-predict`: those of standard input as they come, texts in its output."""

from __future__ import annotations

import json
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import UnsupportedOperation
from typing import IO, Any, NamedTuple

from encdec_lightning.data.sources.lines import LONGEST_LINE, line_too_long
from encdec_lightning.errors import is_finite
from encdec_lightning.records import Pair

PAUSE = 0.1  # seconds without input
SPACES = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")


class Answer(NamedTuple):
    """A text for a source, and its score."""

    text: str
    score: float


def windows(pairs: Iterable[Pair], size: int, paused: Callable[[], bool] = lambda: False) -> Iterator[list[Pair]]:
    """So many pairs at a time, fewer at the end and where the input has `paused`."""
    window: list[Pair] = []
    remaining = iter(pairs)
    while True:
        if window and (len(window) == size or paused()):
            yield window
            window = []
        pair = next(remaining, None)
        if pair is None:
            break
        window.append(pair)
    if window:
        yield window


def written(pair: Pair, answers: list[Answer], text: bool, scores: bool, several: bool = False) -> str:
    """The line of a source with its answer, or its lines where there may be `several`: JSON, or plain text."""
    if text:
        name = [pair.id.translate(SPACES)] if several else []
        rows = [[*name, *([f"{each.score:.6f}"] if scores else []), each.text.translate(SPACES)] for each in answers]
        return "".join("\t".join(row) + "\n" for row in rows)
    found: list[dict[str, Any]] = [
        {"prediction": each.text, **({"score": _score(each.score)} if scores else {})} for each in answers
    ]
    answer = {"predictions": found} if several else found[0]
    return json.dumps({"id": pair.id, "source": pair.source, **answer}, ensure_ascii=False) + "\n"


def standard_input() -> IO[bytes] | Iterable[bytes]:
    """The bytes of standard input, or its lines where there are no bytes beneath."""
    beneath: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    return beneath if beneath is not None else (line.encode() for line in sys.stdin)


class Live:
    """The lines of a pipe or a terminal that nothing was read from yet, which tells where it pauses."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._ended = descriptor, False
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []  # the start of a line
        self._size = 0  # of that

    @classmethod
    def of_standard_input(cls) -> Live | None:
        """That of standard input, unless it is no file of the system."""
        try:
            return cls(sys.stdin.fileno())
        except (AttributeError, UnsupportedOperation):
            return None

    def __iter__(self) -> Iterator[bytes]:
        while True:
            while not self._lines and not self._ended:
                self._read()
            if not self._lines:
                return
            yield self._lines.popleft()

    def paused(self) -> bool:
        """Whether no line comes within `PAUSE`."""
        while not self._lines and not self._ended:
            if not select.select([self._descriptor], [], [], PAUSE)[0]:
                return True
            self._read()
        return False

    def _read(self) -> None:
        block = os.read(self._descriptor, 1 << 16)
        self._ended = not block
        first, *more = block.split(b"\n")
        self._rest.append(first)
        self._size += len(first)
        if self._size > LONGEST_LINE:
            raise line_too_long("input")
        for part in more:
            self._lines.append(b"".join(self._rest) + b"\n")
            self._rest, self._size = [part], len(part)
        if self._ended and self._size:
            self._lines.append(b"".join(self._rest))
            self._rest, self._size = [], 0


def _score(score: float) -> float | None:
    """A score for JSON, which has no number that is not finite."""
    return round(score, 6) if is_finite(score) else None
