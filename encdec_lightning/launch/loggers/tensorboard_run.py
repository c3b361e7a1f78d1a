"""The TensorBoard files of a training: one curve for all its starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoardRun(TensorBoardLogger):
    """Lightning's logger, for a training that may be started several times.

    A run that was killed has often logged steps after its last checkpoint; the next start does these again. Its file
    says from which step on the values of earlier files do not count (`purge_step`), so that no step is shown twice.

    Args:
        save_dir: the folder above that of the files.
        name: the folder of the files.
        **arguments: further ones of Lightning's logger.
    """

    def __init__(self, save_dir: str | Path, name: str = "tensorboard", **arguments: Any) -> None:
        super().__init__(save_dir=save_dir, name=name, **arguments)
        self._continues = any(Path(self.log_dir).glob("events.out.*"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers of a step."""
        if self._continues and step is not None:
            self._continues = False
            if self._experiment is not None:  # it has the options
                self._experiment.close()
                self._experiment = None
            self._kwargs["purge_step"] = step
        super().log_metrics(metrics, step)
