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
from io import RawIOBase
from pathlib import Path
from typing import Any

from encdec_lightning.data.sources.locations import COMPRESSIONS, FORMATS
from encdec_lightning.errors import UserError, writing_stdout
from encdec_lightning.files import kind_of

NO_OUTPUT = {*COMPRESSIONS, *FORMATS} - {".jsonl"}
"""Endings of formats that are read and not written."""

OF_THE_PROCESSOR = ("precision", "weight_levels")
"""Parts of a job that follow from the processor, not from an option."""


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
        with writing_stdout():
            sys.stdout.write(text)


class Partial(Output):
    """`<output>.partial`, whole lines up to a size, and `<output>.partial.json`, which says which and of what job."""

    def __init__(self, output: str, job: dict[str, Any], stream: RawIOBase) -> None:
        """The file, opened without a buffer, and locked. Raises `UserError` when it was begun by another job."""
        self._output, self._job, self._stream = output, job, stream
        self._record = Path(f"{output}.partial.json")
        self.done = self._read()
        self._keep(self.done)

    def write(self, text: str, done: Done) -> None:
        """The lines of some more sources; both files are on the disk when this returns.

        Raises `UserError` where they cannot be written, because the disk is full for example: what was written before
        stays, and the same command continues there.
        """
        self.cut()
        try:
            remaining = memoryview(text.encode())
            while remaining:
                remaining = remaining[self._stream.write(remaining) or 0 :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            with suppress(OSError):
                self.cut()
            raise self._unwritten(f"{self._output}.partial", error) from error
        self._keep(Done(done.sources, done.digest, done.rows, os.fstat(self._stream.fileno()).st_size))

    def cut(self) -> None:
        """Take away what an interrupted start has written and not recorded."""
        self._stream.truncate(self.done.size)

    def _keep(self, done: Done) -> None:
        fresh = self._record.with_name(f"{self._record.name}.new")
        try:
            with fresh.open("w", encoding="utf-8") as stream:
                json.dump({"encdec-predict": self._job, "done": asdict(done)}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(self._record)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise self._unwritten(str(fresh), error) from error
        self.done = done

    def _unwritten(self, path: str, error: OSError) -> UserError:
        done = f"{self.done.sources:,} sources are done" if self.done.sources else "nothing is done yet"
        again = "mend that (make room), then give the same command again"
        return UserError("output", self._output, f"{path} cannot be written ({error.strerror}); {done}, {again}")

    def _read(self) -> Done:
        """How far an earlier start of this job came."""
        partial, again = f"{self._output}.partial", f"or delete it and {self._record} to start anew"
        size = os.fstat(self._stream.fileno()).st_size
        try:
            content = self._record.read_text(encoding="utf-8")
            if not content:  # of a power cut
                self._stream.truncate(0)
                return Done()
            record = json.loads(content)
            job, done = dict(record["encdec-predict"]), Done(**record["done"])
        except FileNotFoundError:
            job, done = self._job, Done()
            if size:
                expected = f"{partial} exists without {self._record}, choose another name or delete it"
                raise UserError("output", self._output, expected) from None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            expected = f"{self._record} is not a record of encdec-predict, choose another name or delete it"
            raise UserError("output", self._output, expected) from None
        if size == 0:
            return Done()
        others = [name for name in {**self._job, **job} if self._job.get(name) != job.get(name)]
        if others:
            same = "use the same"
            if others[0] in OF_THE_PROCESSOR:
                before, here = (each.get(others[0]) for each in (job, self._job))
                same = f"it was {before}, on this processor it is {here}; go on where it was begun"
            expected = f"{partial} was begun with another {others[0]}: {same}, choose another name {again}"
            raise UserError("output", self._output, expected)
        if size < done.size:
            raise UserError("output", self._output, f"{partial} has lost lines, choose another name {again}")
        return done


def check_output(output: str) -> None:
    """Raise `UserError` when there is such a file, or no place for it."""
    if output == "-":
        if sys.stdout is None:
            raise UserError("output", output, "stdout is closed, give a file")
        return
    if Path(output).suffix.lower() in NO_OUTPUT:
        written = "no such file is written: one in .jsonl has a record a line, others, such as .txt, a text a line"
        raise UserError("output", output, written)
    if not Path(output).name:
        raise UserError("output", output, "it must be the name of a file, or - for stdout")
    expected = {
        "file": "the file exists already, choose another name",
        "folder": "it is a folder, give a file inside it",
        "other": "it is no regular file; give output=- and send stdout there",
    }
    for path in (output, f"{output}.partial", f"{output}.partial.json"):
        kind = kind_of(path)
        if kind is not None and (path == output or kind != "file"):
            raise UserError("output", output, expected[kind] if path == output else f"{path} is no regular file")
    if kind_of(Path(output).parent) != "folder":
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
    try:
        opened = path.open("ab", buffering=0)
    except OSError as error:
        raise UserError("output", output, f"{path} cannot be written ({error.strerror})") from error
    with opened as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("output", output, f"another process is writing {path}, wait for its end") from error
        except OSError:  # a file system without locks
            pass
        partial: Partial | None = None
        try:
            check_output(output)  # the other process may have ended just now
            partial = Partial(output, job, stream)
            yield partial
            check_output(output)
            partial.cut()
            try:
                path.rename(output)
            except OSError as error:
                expected = f"{path} cannot be given this name ({error.strerror}), which it still has to get"
                raise UserError("output", output, expected) from error
            partial = None  # the stream is the output's now
            Path(f"{path}.json").unlink(missing_ok=True)
        finally:
            with suppress(OSError):  # the folder may be gone
                if partial is not None and partial.done.sources == 0:
                    partial.cut()
                    Path(f"{path}.json").unlink(missing_ok=True)
                if os.fstat(stream.fileno()).st_size == 0 and path.exists() and path.stat().st_size == 0:
                    path.unlink()
