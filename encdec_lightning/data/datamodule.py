"""The DataModule: reads, tokenizes, and hands out loaders."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import lightning

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.loader import PlanLoader
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.data.plan import Update, evaluation_plan, training_plan
from encdec_lightning.data.readers import Split, read_split
from encdec_lightning.data.tokenization import Examples, tokenize
from encdec_lightning.records import Pair


class Seq2SeqDataModule(lightning.LightningDataModule):
    """A task's pairs as batches bounded by tokens; every split is read when it is first asked for."""

    def __init__(self, task: Task, tokenizers: Tokenizers, loading: Loading | None = None) -> None:
        super().__init__()
        self.task, self.tokenizers, self.loading = task, tokenizers, loading or Loading()
        self._examples: dict[str, Examples] = {}

    def examples(self, split: Split) -> Examples:
        """The tokenized examples of a split."""
        if split not in self._examples:
            pairs = read_split(self.task, self.loading, split)
            lengths = self.task.max_source_length, self.task.max_target_length
            self._examples[split] = tokenize(pairs, self.tokenizers, *lengths)
        return self._examples[split]

    def fingerprint(self, split: Split) -> str:
        """A hash of a split's ids and texts."""
        return fingerprint(list(self.examples(split).pairs))

    def train_dataloader(self) -> PlanLoader:
        """This rank's share of every epoch's updates."""
        return self._loader(self.examples("train"), self._training_plan, self.fingerprint("train"))

    def val_dataloader(self) -> list[PlanLoader]:
        """All pairs for the loss and, if the task wants it, the first ones to generate for."""
        examples = self.examples("validation")
        count = self.task.validation_generate
        loaders = [self._evaluation_loader(examples)]
        if count:
            subset = Examples(examples.pairs[:count], examples.sources[:count], examples.targets[:count])
            loaders.append(self._evaluation_loader(subset))
        return loaders

    def test_dataloader(self) -> PlanLoader:
        """All test pairs."""
        return self._evaluation_loader(self.examples("test"))

    def predict_dataloader(self) -> PlanLoader:
        """The same as the test pairs."""
        return self.test_dataloader()

    def updates_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self._training_plan(0))

    def _training_plan(self, epoch: int) -> list[Update]:
        loading = self.loading
        return training_plan(
            self.examples("train").lengths,
            batch_tokens=loading.batch_tokens,
            accumulate=loading.accumulate,
            seed=loading.seed,
            epoch=epoch,
            world_size=self._world()[1],
        )

    def _evaluation_loader(self, examples: Examples) -> PlanLoader:
        budget = self.loading.evaluation_batch_tokens or self.loading.batch_tokens
        plan = partial(_same_every_epoch, evaluation_plan(examples.lengths, budget, self._world()[1]))
        return self._loader(examples, plan, "")

    def _loader(self, examples: Examples, plan: Any, data_fingerprint: str) -> PlanLoader:
        return PlanLoader(examples, self.tokenizers, plan, rank=self._world()[0], fingerprint=data_fingerprint)

    def _world(self) -> tuple[int, int]:
        """This process's rank and the number of processes; one alone without a Trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def fingerprint(pairs: list[Pair]) -> str:
    """A sha256 of ids and texts, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for text in (pair.id, pair.source, pair.target):
            digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _same_every_epoch(plan: list[Update], epoch: int) -> list[Update]:
    return plan
