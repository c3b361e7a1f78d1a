"""What a dashboard that can show tables gets beside the curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning

from encdec_lightning.composition.parameters import ParameterTable
from encdec_lightning.launch.loggers.labels import Table
from encdec_lightning.launch.loggers.wandb_run import WandbRun
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.composition import COUNTS


def show_parameters(trainer: lightning.Trainer, parameters: ParameterTable) -> None:
    """Show how many parameters are pretrained, random and shared, as built and by the paper's rule."""
    counts = (parameters.as_built, parameters.by_the_paper)
    rows = [[words, *(getattr(each, name) for each in counts)] for name, words in COUNTS.items()]
    for logger in _dashboards(trainer):
        logger.show("parameters", Table(["what", "as built", "by the paper's rule"], rows))


def show_predictions(trainer: lightning.Trainer, key: str, predictions: Sequence[Prediction]) -> None:
    """Show the first predictions beside their sources and references, as many as the dashboard is to have."""
    for logger in _dashboards(trainer):
        first = predictions[: logger.predictions]
        rows = [
            [trainer.global_step, each.id, each.source, "\n".join(each.references), each.prediction] for each in first
        ]
        if rows:
            logger.show(key, Table(["step", "id", "source", "reference", "prediction"], rows))


def summarize(trainer: lightning.Trainer, metrics: Mapping[str, Any]) -> None:
    """Put what `metrics.json` says, the test's scores and intervals above all, into the dashboard's summary."""
    for logger in _dashboards(trainer):
        logger.summarize({name: value for name, value in metrics.items() if value is not None})


def _dashboards(trainer: lightning.Trainer) -> Iterator[WandbRun]:
    return (each for each in trainer.loggers if isinstance(each, WandbRun))
