"""What surrounds a Trainer while it works: how refusals, dead ranks and interrupts leave it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning

from encdec_lightning.launch.job.ranks import further_ranks, ranks_watched
from encdec_lightning.launch.job.refusals import lightnings_refusals
from encdec_lightning.run import Run
from encdec_lightning.signals import TERMINATION


@contextmanager
def at_work(run: Run, trainer: lightning.Trainer) -> Iterator[None]:
    """For a block in which the Trainer works on a run.

    Raises `UserError` for what Lightning refuses, `JobFailed` after the death of a further rank, and
    `KeyboardInterrupt` after an interrupt.
    """
    with lightnings_refusals(), ranks_watched(run, further_ranks(trainer)), _interruptible(trainer):
        yield


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """An interrupt leaves the block as `KeyboardInterrupt`; Lightning turns it into an exit with code 1."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted and not TERMINATION.asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        TERMINATION.deferred = False
