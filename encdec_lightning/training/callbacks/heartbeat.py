"""How far a run is, in a small file of its folder, so that anybody who sees the folder can tell."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.trainer.states import TrainerFn

from encdec_lightning.errors import UserError
from encdec_lightning.files import write_text

EVERY = 10.0  # seconds
FILE = "progress.json"
VALIDATIONS = "validations.jsonl"


class Heartbeat(lightning.Callback):
    """Writes `progress.json`: what the run does, its step and their total, the last scores, where it runs.

    On rank 0, every few seconds at the end of a step, and whenever something else begins. Each validation adds a line
    to `validations.jsonl`. The files are for those who watch: where they cannot be written, nothing else happens.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._last = 0.0
        self._begun: tuple[float, int] = (0.0, 0)
        self._scores: dict[str, float] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Training begins."""
        self._begun = time.time(), trainer.global_step
        self._write(trainer, pl_module, "training")

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Another step."""
        if time.time() - self._last > EVERY:
            self._write(trainer, pl_module, "training")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """A validation begins."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "validating")

    def on_validation_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Another batch."""
        if not trainer.sanity_checking and time.time() - self._last > EVERY:
            self._write(trainer, pl_module, "validating")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Its scores are known."""
        if not trainer.sanity_checking:
            named = trainer.callback_metrics.items()
            self._scores = {name: float(value) for name, value in named if name.startswith("val/")}
            self._write(trainer, pl_module, "training")
            if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
                self._add_validation(trainer.global_step)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """The test begins."""
        self._write(trainer, pl_module, "testing")

    def _write(self, trainer: lightning.Trainer, module: Any, doing: str) -> None:
        if not trainer.is_global_zero:
            return
        self._last = time.time()
        begun, before = self._begun
        total = int(module.total_steps()) if doing != "testing" else trainer.global_step
        step = trainer.global_step
        done = step - before
        left = (total - step) * (self._last - begun) / done if total and done and doing == "training" else None
        told = {
            "doing": doing,
            "step": step,
            "steps": total or None,
            "seconds_left": None if left is None else round(left, 1),
            "scores": self._scores,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "job": slurm_job(),
            "time": round(self._last, 1),
        }
        with suppress(UserError, OSError):
            write_text(self._file, json.dumps(told) + "\n")

    def _add_validation(self, step: int) -> None:
        with suppress(OSError), self._file.with_name(VALIDATIONS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "scores": self._scores}) + "\n")


def validations(folder: Path) -> dict[int, dict[str, float]]:
    """{step: scores} of each validation of the run in a folder, in their order.

    A run that was killed may have lost steps behind its last checkpoint; their validations are there once.
    """
    found: dict[int, dict[str, float]] = {}
    with suppress(OSError), (folder / VALIDATIONS).open(encoding="utf-8") as lines:
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):  # a line that is being written
                told = json.loads(line)
                found[int(told["step"])] = {str(name): float(value) for name, value in told["scores"].items()}
    return {step: found[step] for step in sorted(found)}


def slurm_job() -> str | None:
    """The number of the Slurm job that this process belongs to, `array_task` in an array; None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
