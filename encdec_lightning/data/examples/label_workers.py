"""`Labellers`: processes that find the oracle's sentences, beside the one that reads and tokenizes.

Each is a Python of its own that answers a line of JSON by another one. Nothing is forked, so that no lock of a thread
is inherited, and no program is run a second time, as those that start processes by `multiprocessing` are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import encdec_lightning
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.extraction import Criterion, greedy_oracle

MOST = 8
PIECES = 4
"""Pieces of a call for each process, so that one with long documents does not keep all others waiting."""
Document = tuple[Sequence[str], Sequence[str]]
"""Sentences and references."""


class Labellers:
    """As many processes as there are processors, at most `MOST`; they end with `close`, or with this process."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or min(MOST, _processors())
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._pool = ThreadPoolExecutor(self.count)
        # A process begins where the package is, so that no file of the working folder can take a module's place.
        command, where = [sys.executable, "-m", __name__], Path(encdec_lightning.__file__).parents[1]
        self._all = [
            subprocess.Popen(
                command,
                cwd=where,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # an interruption from the keyboard is this process's business
            )
            for _ in range(self.count)
        ]
        for process in self._all:
            self._free.put(process)

    def __call__(self, documents: Sequence[Document], most: int, criterion: Criterion) -> list[list[int]]:
        """What `greedy_oracle` finds in each document, in their order."""
        size = max(1, -(-len(documents) // (self.count * PIECES)))
        pieces = [documents[at : at + size] for at in range(0, len(documents), size)]
        return [
            found for piece in self._pool.map(lambda each: self._ask(each, most, criterion), pieces) for found in piece
        ]

    def _ask(self, documents: Sequence[Document], most: int, criterion: Criterion) -> list[list[int]]:
        process = self._free.get()
        answer = ""
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps([documents, most, criterion]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass  # as where there is no answer
        finally:
            self._free.put(process)
        if not answer:
            expected = f"a process that finds an oracle's sentences has ended ({process.wait()}): start again"
            raise UserError("extraction.oracle", criterion, f"{expected}, where there is more memory if it was killed")
        found: list[list[int]] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
        for process in self._all:
            with suppress(BrokenPipeError):
                process.communicate()


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _answer(requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        documents, most, criterion = json.loads(line)
        found = [greedy_oracle(sentences, references, most, criterion) for sentences, references in documents]
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    _answer(sys.stdin, sys.stdout)
