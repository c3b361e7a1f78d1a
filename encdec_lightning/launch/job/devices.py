"""The devices of a run's job, which may be others than those that it began on."""

from __future__ import annotations

from dataclasses import replace

from encdec_lightning.config import Config
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

MOVABLE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
"""Options that `run=<folder>` takes beside it."""


def job_config(run: Run) -> Config:
    """The config of a run's job: the frozen one, on the devices where the run was moved to."""
    config = convert(run.config())
    return replace(config, trainer={**config.trainer, **(run.status().get("hardware") or {})})
