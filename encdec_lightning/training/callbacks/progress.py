"""The fit as a person watches it: optimizer steps, loss, speed, time left, and every validation's result on a line."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.progress import Progress

WATCHED = {"train/loss": "loss {:.3f}", "tokens/s": "{:,.0f} tokens/s"}
"""What stands beside the number of steps: the name of a logged value, and how it is written."""
EVERY = 0.2
"""Seconds between two looks at these values."""
UNTOLD = ("val/texts_per_second", "val/perplexity")
"""Of a validation, what its line leaves to the log."""

T = TypeVar("T")


class FitProgress(ProgressBar):
    """Counts optimizer steps of the whole fit, not batches of an epoch; a validation's results stay above the bar.

    In a log file, where no line can be written over, there is a line now and then (`encdec_lightning.progress`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._hidden = False
        self._fit: Progress | None = None
        self._shown = -math.inf
        self._validation: Progress | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown: on rank 0, unless `disable` was called."""
        return not self._hidden and (self._trainer is None or self._trainer.is_global_zero)

    def disable(self) -> None:
        """Show nothing any more."""
        self._hidden = True

    def enable(self) -> None:
        """Show again what is begun from now on."""
        self._hidden = False

    def watch(self, description: str, total: int | None, unit: str) -> Progress:
        """Other work of this fit or test, to be shown in the same way; a context."""
        return Progress(description, total, unit, hidden=not self.is_enabled)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's `module.print`, above the bar."""
        line = str(kwargs.get("sep", " ")).join(map(str, args))
        (self._fit or Progress("", hidden=not self.is_enabled)).say(line)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Begin to count."""
        total = module.total_steps()
        self._fit = Progress("training", total or None, "steps", trainer.global_step, hidden=not self.is_enabled)
        self._fit.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, index: int
    ) -> None:
        """Show the step that is done, now and then: the values that stand beside it have to be fetched from a GPU."""
        if time.monotonic() - self._shown >= EVERY:
            self._show(trainer)

    def _show(self, trainer: lightning.Trainer) -> None:
        if self._fit is None or not self.is_enabled or trainer.global_step == self._fit.done:
            return
        self._shown = time.monotonic()
        values = trainer.callback_metrics
        note = [text.format(float(values[name])) for name, text in WATCHED.items() if name in values]
        self._fit.update(trainer.global_step, ", ".join(note))

    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Begin to count a validation's batches, unless it is the short one before a fit."""
        self._show(trainer)
        if not trainer.sanity_checking:
            total = sum(int(each) for each in trainer.num_val_batches)
            if self._fit is not None:
                self._fit.stop()
            self._validation = self.watch("validating", total, "batches")
            self._validation.start()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        """Show that a batch is done."""
        if self._validation is not None:
            self._validation.advance()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """The batches are done; what follows may generate, which has a bar of its own."""
        self._end_validation()

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the results, and go on with the fit."""
        if trainer.sanity_checking:
            return
        values = trainer.callback_metrics.items()
        results = [
            f"{name} {float(value):.3f}" for name, value in values if name.startswith("val/") and name not in UNTOLD
        ]
        if self._fit is not None:
            self._fit.say(f"step {trainer.global_step:,}: {', '.join(results)}")
            self._fit.start()

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """The fit is over."""
        self._show(trainer)
        self._end()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._end_validation()
        self._end()

    def _end_validation(self) -> None:
        if self._validation is not None:
            self._validation.stop()
            self._validation = None

    def _end(self) -> None:
        if self._fit is not None:
            self._fit.stop()
            self._fit = None


def is_for_bar(trainer: lightning.Trainer) -> bool:
    """Whether Lightning's own progress bar needs a logged value.

    Lightning fetches such a value from the device in each step, and a GPU is waited for; `FitProgress` looks at logged
    values now and then.
    """
    return not isinstance(trainer.progress_bar_callback, FitProgress | None)


def watched(trainer: lightning.Trainer, work: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """The same items, counted as they come, in the way of the Trainer's progress bar; silent without one."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, FitProgress):
        with bar.watch(description, total, unit) as progress:
            for each in work:
                yield each
                progress.advance()
    else:
        silent = bar is None or not trainer.is_global_zero
        yield from tqdm(work, description, total, leave=False, disable=silent, unit=f" {unit}")
