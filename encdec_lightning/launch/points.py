"""What becomes of a sweep's points, told by files: a launcher may run each point in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from encdec_lightning.errors import JobFailed, UserError, reason
from encdec_lightning.files import remedy, write_text
from encdec_lightning.run import Run


@dataclass(frozen=True)
class Points:
    """The points of a sweep in the order in which its sweeper chose them."""

    finished: tuple[Path, ...]
    """Folders of the runs that are whole."""
    failed: tuple[str, ...]
    """A line on each other point: its folder, and why it failed."""


class Point:
    """A point that has begun: a file in the sweep's folder says where its run is, and why it has none."""

    def __init__(self, folder: Path, number: int) -> None:
        """`folder` is the sweep's."""
        self._file = folder / f"{number:06}-{os.getpid()}.json"

    def is_at(self, folder: str | os.PathLike[str], error: str | None = None) -> None:
        """Write down the folder of the point's run, and why it failed where the run itself cannot say so."""
        write_text(self._file, json.dumps({"folder": os.fspath(folder), "error": error}) + "\n")

    def has_failed(self, run: Run, error: Exception) -> None:
        """Write down an exception of the run's start, unless the run's own process has said it in the run's status."""
        said = isinstance(error, JobFailed) or not str(error)
        self.is_at(run.folder, None if said else reason(error))


@contextmanager
def folder_of_points(sweep: Path) -> Iterator[Path]:
    """The path of a folder for the points of a sweep, inside the sweep's own; it is gone when the block ends.

    A folder for temporary files would not do: a launcher may start points on machines that share the runs alone.
    Raises `UserError` where the sweep's folder cannot be made.
    """
    try:
        sweep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = f"the folder of the sweep cannot be made ({error.strerror}); {remedy(error)}, or name another one"
        raise UserError("hydra.sweep.dir", str(sweep), expected) from error
    folder = sweep.absolute() / f".points-{os.getpid()}-{time.time_ns()}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # there is more in it
            sweep.rmdir()


def points_in(folder: Path) -> Points:
    """What has become of the points that have begun; the runs' own folders say it."""
    finished: list[Path] = []
    failed: list[str] = []
    for file in sorted(folder.glob("[0-9]*.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        status = Run(told["folder"]).status()
        if told["error"] is None and status.get("state") == "finished":
            finished.append(Path(told["folder"]))
        else:
            why = told["error"] or status.get("error") or "the process that started it ended before the run did"
            failed.append(f"{told['folder']}: {why}")
    return Points(tuple(finished), tuple(failed))
