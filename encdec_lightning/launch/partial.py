"""Where texts are written: stdout, or a file that survives interruption and gets its name when it is whole."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from encdec_lightning.errors import ReaderGone, UserError


@dataclass(frozen=True)
class Done:
    """How far a job is."""

    sources: int = 0
    """Sources whose lines are written."""
    digest: str = ""
    """Hash of their texts."""
    rows: int | None = None
    """Targets under way at the end."""
    size: int = 0
    """Bytes written."""


class Output:
    """Stdout. `done` says what an earlier start has written: nothing."""

    done = Done()

    def write(self, text: str, done: Done) -> None:
        """The lines of some more sources, at once. Raises `ReaderGone` where nobody reads them."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # as in a file, whatever the terminal's is
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)  # for what is left in the buffer, which is flushed at the end
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            raise ReaderGone from None


class Partial(Output):
    """`<output>.partial`, whole lines up to a size, and `<output>.partial.json`, which says which and of what job."""

    def __init__(self, output: str, job: dict[str, Any], stream: BinaryIO) -> None:
        """The file, opened and locked. Raises `UserError` when it was begun by another job."""
        self._output, self._job, self._stream = output, job, stream
        self._record = Path(f"{output}.partial.json")
        self.done = self._read()
        self._keep(self.done)

    def write(self, text: str, done: Done) -> None:
        """The lines of some more sources; both files are on the disk when this returns."""
        self.cut()
        self._stream.write(text.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._keep(Done(done.sources, done.digest, done.rows, os.fstat(self._stream.fileno()).st_size))

    def cut(self) -> None:
        """Take away what an interrupted start has written and not recorded."""
        self._stream.truncate(self.done.size)

    def _keep(self, done: Done) -> None:
        fresh = self._record.with_name(f"{self._record.name}.new")
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump({"encdec-predict": self._job, "done": asdict(done)}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self._record)
        self.done = done

    def _read(self) -> Done:
        """How far an earlier start of this job came."""
        partial, again = f"{self._output}.partial", f"or delete it and {self._record} to start anew"
        size = os.fstat(self._stream.fileno()).st_size
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            job, done = dict(record["encdec-predict"]), Done(**record["done"])
        except FileNotFoundError:
            job, done = self._job, Done()
            if size:
                expected = f"{partial} exists without {self._record}, choose another name or delete it"
                raise UserError("output", self._output, expected) from None
        except (OSError, ValueError, TypeError, KeyError):
            expected = f"{self._record} is not a record of encdec-predict, choose another name or delete it"
            raise UserError("output", self._output, expected) from None
        if size == 0:
            return Done()
        others = [name for name in {**self._job, **job} if self._job.get(name) != job.get(name)]
        if others:
            expected = f"{partial} was begun with another {others[0]}: use the same, choose another name {again}"
            raise UserError("output", self._output, expected)
        if size < done.size:
            raise UserError("output", self._output, f"{partial} has lost lines, choose another name {again}")
        return done


def check_output(output: str) -> None:
    """Raise `UserError` when there is such a file, or no folder for it."""
    if output == "-":
        return
    if Path(output).exists():
        raise UserError("output", output, "the file exists already, choose another name")
    if not Path(output).parent.is_dir():
        raise UserError("output", output, "its folder does not exist")


@contextmanager
def opened_output(output: str, job: dict[str, Any]) -> Iterator[Output]:
    """Stdout, or the partial file of a job, which gets its name at the end, and stays if there is something in it.

    `job` is all that decides the lines but the input. Raises `UserError` for the partial file of another job, or one
    that another process is writing.
    """
    if output == "-":
        yield Output()
        return
    path = Path(f"{output}.partial")
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError("output", output, f"another process is writing {path}, wait for its end") from error
        partial: Partial | None = None
        try:
            partial = Partial(output, job, stream)
            yield partial
            check_output(output)
            partial.cut()
            path.rename(output)
            partial.done = Done()
        finally:
            if partial is not None and partial.done.sources == 0:
                Path(f"{path}.json").unlink(missing_ok=True)
            if os.fstat(stream.fileno()).st_size == 0:
                with suppress(FileNotFoundError):
                    path.unlink()
