"""One malformed input given to one command, in this process: its exit code, what it said, what it left behind."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nasty import Case
from tiny import Files

from encdec_lightning.cli import check, evaluate, predict, prepare, train
from encdec_lightning.config import Config
from encdec_lightning.launch import processes
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

COMMANDS = {
    "train": train.main,
    "check": check.main,
    "prepare": prepare.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
}
COMPOSING = ("train", "check", "prepare")
LIMIT = 180  # seconds for one command on a busy machine, loading of libraries included
LONGEST = 500  # characters of a sentence, the list of the allowed words included


class Started(BaseException):
    """A training would begin: everything was accepted."""


class TooSlow(BaseException):
    """The command has not ended in time."""


@dataclass(frozen=True)
class Attempt:
    """What became of a case."""

    case: Case
    code: int | None
    """The exit code, 0 where a training would begin, None after an exception."""
    error: str
    """The traceback, or nothing."""
    seconds: float
    said: list[str]
    left: list[str]
    """Paths outside the working folder that are new."""

    @property
    def faults(self) -> list[str]:
        """What must not be, in words."""
        found = [self.error] if self.error else []
        if self.code not in (0, 2, None):
            found.append(f"exit code {self.code}")
        if self.code == 2 and not self.said:
            found.append("nothing was said")
        if self.code == 0 and self.case.refused:
            found.append("accepted")
        found += [f"a sentence of {len(line)} characters: {line[:100]}" for line in self.said if len(line) > LONGEST]
        if (
            self.code == 2
            and self.case.fields
            and not any(field in line for field in self.case.fields for line in self.said)
        ):
            found.append(f"none of {self.case.fields} is named: {self.said[:2]}")
        return [*found, *(f"left behind: {path}" for path in self.left)]


def good_run(folder: Path, files: Files) -> Run:
    """A run that was made and never started."""
    config: Config = compose_config(files.overrides("variant=bertshare"))
    return Run.create(folder, asdict(config), config.identity())


def attempt(case: Case, files: Files, world: Path, folder: Path) -> Attempt:
    """Give the case to its command, in a fresh working folder below `folder`. `world` holds the good files and a run."""
    inside = folder / "inside"
    shutil.rmtree(folder, ignore_errors=True)
    inside.mkdir(parents=True)
    case.make(inside)
    base = (
        files.overrides("variant=bertshare", "data.cache=cache", "checkpoints.roberta=x")
        if case.command in COMPOSING
        else []
    )
    if any(word.startswith("run=") for word in case.argv):
        base = []
    argv = [*base, *(word.replace("{world}", str(world)) for word in case.argv)]
    before, here = _listed(folder, world), Path.cwd()
    out, err, error, code = io.StringIO(), io.StringIO(), "", None
    began = time.perf_counter()
    os.chdir(inside)
    try:
        with _limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = COMMANDS[case.command](argv)
    except Started:
        code = 0
    except TooSlow:
        error = f"not ended after {LIMIT} s"
    except BaseException:
        error = traceback.format_exc()[-1500:]
    finally:
        os.chdir(here)
    seconds = time.perf_counter() - began
    left = sorted(_listed(folder, world) - before)
    if list(inside.rglob("executed")):
        left.append("executed")
    return Attempt(case, code, error, seconds, err.getvalue().splitlines(), left)


def _listed(folder: Path, world: Path) -> set[str]:
    """Files around the working folder, and in the world beside the run's own lock."""
    near = {str(path) for path in folder.iterdir()}
    return near | {str(path) for path in world.rglob("*") if path.name != ".lock"}


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `TooSlow` after the time limit, and `Started` where a training would begin."""

    def late(*_: object) -> None:
        raise TooSlow

    def started(run: Run, **_: object) -> None:
        convert(run.config())  # what a start reads first
        raise Started

    start, before = processes.start, signal.signal(signal.SIGALRM, late)
    processes.start = started
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        processes.start = start
