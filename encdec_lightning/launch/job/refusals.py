"""What the system, Lightning or a data worker's death keeps a run from doing, as a user's mistake."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from encdec_lightning.errors import UserError, ran_out
from encdec_lightning.run import Run


@contextmanager
def refusals_of_the_disk(run: Run) -> Iterator[None]:
    """What the system refuses in a run's folder, as a `UserError`: no room, no permission, a folder for a file."""
    try:
        yield
    except OSError as error:
        place = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        inside = place is not None and place.is_relative_to(run.folder)
        if not inside and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        expected = f"the system refuses it ({error.strerror}); mend that, then give the same command again"
        raise UserError("file", str(place or run.folder), expected) from error


@contextmanager
def lightnings_refusals() -> Iterator[None]:
    """What Lightning's Trainer refuses when it sees the data, a data worker that dies, and memory that runs out."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from encdec_lightning.launch.slots.build import first_line

    _silence_further_deaths()
    try:
        yield
    except MisconfigurationException as error:
        raise UserError("trainer", "lightning.Trainer", first_line(error)) from error
    except (RuntimeError, MemoryError) as error:
        if _is_worker_death(error):
            expected = (
                "a process that prepares batches has died, often because the memory is short; fewer of them, or"
                " data.workers=0, need less: the same command with it and folder=<the run's folder> goes on"
            )
            raise UserError("data.workers", str(error).splitlines()[0].rstrip(". "), expected) from error
        if not ran_out(error):
            raise
        expected = (
            "the memory of the device does not hold it; a smaller data.batch_tokens, with a larger data.accumulate or"
            " data.update_examples for the same update, training.gradient_checkpointing=true or precision=bf16 need"
            " less; encdec-check tells how much. It is another run then: init_from=<this folder> takes the weights over"
        )
        raise UserError("memory", first_line(error), expected) from error


def _is_worker_death(error: BaseException | None) -> bool:
    return str(error).startswith("DataLoader worker (pid")  # torch has no class of its own for it


def _silence_further_deaths() -> None:
    """Keep torch's clean-up from printing the traceback of a worker's death, which it meets once more.

    For the rest of the process: the clean-up may come after the fit.
    """
    if isinstance(sys.unraisablehook, _Hook):
        return
    sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """`sys.unraisablehook` as it was, except for a worker's death."""

    def __init__(self, before: Callable[[Any], object]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        if not _is_worker_death(unraisable.exc_value):
            self._before(unraisable)
