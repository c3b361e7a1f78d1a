"""Whether the metrics of a task fit the texts that they will be computed on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from encdec_lightning.config import Config
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.sources.pairs import Split
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.evaluation.references import check_references


def check_targets(config: Config, data: Seq2SeqDataModule) -> None:
    """Raise `UserErrors` if a metric does not fit the targets of a split that it will be computed on."""
    splits: tuple[Split, ...] = ("validation", "test") if config.task.validation_generate else ("test",)
    found: list[UserError] = []
    for split in splits:
        targets = partial(_targets, data.examples(split))
        found += check_references(config.task.scored_with, split, targets)
    if found:
        raise UserErrors(found)


def _targets(examples: OnDisk) -> Iterator[str]:
    pairs = map(examples.pair, range(len(examples.lengths)))
    return (target for pair in pairs for target in (pair.target, *pair.other_targets))
