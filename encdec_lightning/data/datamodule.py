"""The DataModule: prepares the splits, and hands out loaders."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any

import lightning
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from encdec_lightning.cache.entries import say
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.drawn_targets import DrawnTargets
from encdec_lightning.data.batches.loader import Origin, PlanLoader
from encdec_lightning.data.batches.plan import Lengths, Plan, evaluation_plan, training_plan
from encdec_lightning.data.batches.updates import UpdatePlanner, examples_for
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.data.examples.sentence_labels import SentenceLabels
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.options import Extraction, Loading, Task
from encdec_lightning.data.sources.pairs import SPLITS, Split
from encdec_lightning.errors import UserError

EVALUATED: tuple[Split, ...] = ("validation", "test")


class Seq2SeqDataModule(lightning.LightningDataModule):
    """A task's pairs as batches bounded by tokens; every split is tokenized once and kept in the cache.

    In a fit it also tells the Trainer how many micro-batches make an optimizer step, where that follows from the size
    of an update.
    """

    gives_labels = False
    """Whether targets are labels of sentences, not tokens."""

    def __init__(self, task: Task, tokenizers: Tokenizers, loading: Loading | None = None) -> None:
        super().__init__()
        self.task, self.tokenizers, self.loading = task, tokenizers, loading or Loading()
        self._examples: dict[str, OnDisk] = {}
        self._planners: dict[int, UpdatePlanner] = {}
        self._planned: dict[int, int] = {}
        self._drawn: DrawnTargets | None = None

    def examples(self, split: Split) -> OnDisk:
        """The tokenized examples of a split."""
        if split not in self._examples:
            self._examples[split] = prepared(self.task, self.loading, split, self.tokenizers, self._labels())
        return self._examples[split]

    def _labels(self) -> SentenceLabels | None:
        """What takes the place of the targets' tokens."""
        return None

    def fingerprint(self, split: Split) -> str:
        """A hash of a split's ids and texts."""
        return str(self.examples(split).meta["fingerprint"])

    def content(self, split: Split) -> str:
        """A hash of a split's ids and texts, and of their tokens."""
        meta = self.examples(split).meta
        return f"{meta['fingerprint'][:32]}{meta['tokens'][:32]}"

    def prepare_data(self) -> None:
        """Tokenize what the cache lacks of the splits that are needed: of several processes one does, others wait.

        Before a fit those are all of them, so that a bad test row is found before the training. Called before the
        Trainer, it keeps long work out of the time when processes of a group wait for one another.
        """
        fitting = self.trainer is None or self.trainer.state.fn in (None, TrainerFn.FITTING)
        validating = self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING
        needed: tuple[Split, ...] = ("validation",) if validating else ("test",)
        for split in SPLITS if fitting else needed:
            self.examples(split)
        if fitting:
            _tell_same(self.task, {split: self.content(split) for split in SPLITS})

    def check_devices(self, devices: int) -> None:
        """Raise `UserError` where an update cannot have an example for each of so many devices."""
        examples, size = len(self._planned_lengths), devices * self.loading.accumulate
        if self._sized:
            self._planner(devices)
        elif examples < size:
            expected = f"with {devices} devices an update has {size} batches, and there are {examples} examples in all"
            raise UserError("data.accumulate", self.loading.accumulate, expected)

    def state_dict(self) -> dict[str, str]:
        """What a checkpoint keeps of the data that choose and judge it; the training data are with the position."""
        return {split: self.content(split) for split in EVALUATED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise `UserError` when a fit goes on with other validation or test examples than those of its checkpoint."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        for split in EVALUATED:
            began, now = state_dict.get(split), self.content(split)
            if began not in (None, now):
                expected = (
                    f"its examples are not those that the run began with ({now[:12]}, they were {began[:12]}):"
                    " put those back, or start a new run"
                )
                raise UserError(f"task.{split}", self.task.path(split), expected)

    def setup(self, stage: str) -> None:
        """Tell the Trainer of a fit how many micro-batches an update has, where this follows from the update's size.

        A share of the training batches is rounded down to whole updates. Raises `UserError` where none is left.
        """
        if stage != "fit" or self.trainer is None:
            return
        if self._sized:
            self.trainer.accumulate_grad_batches = self.micro_batches
        limit, micro_batches = self.trainer.limit_train_batches, self.micro_batches
        if isinstance(limit, float) and 0 < limit < 1:
            planned = self._planned_updates()
            updates = int(planned * limit)
            if updates == 0:
                name = "overfit_batches" if self.trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
                expected = f"it must leave at least one of the {planned} optimizer steps of an epoch"
                raise UserError(f"Trainer.{name}", limit, expected)
            if micro_batches > 1:
                self.trainer.limit_train_batches = updates * micro_batches

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step on each device."""
        return self._planner().micro_batches if self._sized else self.loading.accumulate

    def train_dataloader(self) -> PlanLoader:
        """This rank's share of every epoch's updates; with the Trainer's `overfit_batches` of the first one's again."""
        names = ("batch_tokens", "accumulate", "update_examples", "update_target_tokens", "seed")
        plan = {f"data.{name}": getattr(self.loading, name) for name in names} | {"devices": self._world()[1]}
        origin = Origin(self.content("train"), plan)
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        plan_of = partial(_same_every_epoch, self._training_plan(0)) if overfit else self._training_plan
        return self._loader("train", plan_of, origin, with_pairs=False)

    def val_dataloader(self) -> list[PlanLoader]:
        """All pairs for the loss and, if the task wants it, the first ones to generate for."""
        count = self.task.validation_generate
        return [self._evaluation_loader("validation", first) for first in ([None, count] if count else [None])]

    def test_dataloader(self) -> PlanLoader:
        """All test pairs."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> PlanLoader:
        """The same as the test pairs."""
        return self.test_dataloader()

    def updates_per_epoch(self) -> int:
        """Optimizer steps in an epoch, within the Trainer's limit of its batches."""
        updates = self._planned_updates()
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        if isinstance(limit, float):
            return int(updates * limit)
        return min(updates, math.ceil(limit / self.micro_batches))

    def _planned_updates(self) -> int:
        """Updates of an epoch's plan, the same in every epoch; counted once for a number of devices: it takes long."""
        devices = self._world()[1]
        if devices not in self._planned:
            self._planned[devices] = len(self._training_plan(0))
        return self._planned[devices]

    @property
    def _sized(self) -> bool:
        """Whether updates have a fixed size."""
        return (self.loading.update_examples, self.loading.update_target_tokens) != (None, None)

    def _planner(self, devices: int | None = None) -> UpdatePlanner:
        """The plan of updates of a fixed size, made once for a number of devices; by default those that are at work."""
        loading, lengths, world_size = self.loading, self._planned_lengths, devices or self._world()[1]
        if world_size not in self._planners:
            field = "update_examples" if loading.update_examples else "update_target_tokens"
            size = loading.update_examples or examples_for(loading.update_target_tokens or 1, lengths)
            if min(size, len(lengths)) < world_size:
                expected = (
                    f"each of {world_size} devices needs at least one of the {len(lengths):,} examples for an update"
                )
                raise UserError(f"data.{field}", getattr(loading, field), expected)
            self._planners[world_size] = UpdatePlanner(lengths, loading.batch_tokens, size, loading.seed, world_size)
        return self._planners[world_size]

    @property
    def _planned_lengths(self) -> Lengths:
        """(N, 2): tokens of what an epoch's plan is made of, training examples or pairs whose target is drawn."""
        if self.task.train_target == "first":
            return self.examples("train").lengths
        if self._drawn is None:
            examples = self.examples("train")
            self._drawn = DrawnTargets(examples.column("rows"), examples.lengths, self.loading.seed)
        return self._drawn.lengths

    def _training_plan(self, epoch: int) -> Plan:
        plan = self._plan_of_pairs(epoch)
        return plan if self._drawn is None else self._drawn.drawn(plan, epoch)

    def _plan_of_pairs(self, epoch: int) -> Plan:
        if self._sized:
            return self._planner().plan(epoch)
        loading = self.loading
        return training_plan(
            self._planned_lengths,
            batch_tokens=loading.batch_tokens,
            accumulate=loading.accumulate,
            seed=loading.seed,
            epoch=epoch,
            world_size=self._world()[1],
        )

    def _evaluation_loader(self, split: Split, first: int | None = None) -> PlanLoader:
        budget = self.loading.evaluation_batch_tokens or self.loading.batch_tokens
        plan = evaluation_plan(self.examples(split).lengths[:first], budget, self._world()[1])
        return self._loader(split, partial(_same_every_epoch, plan), Origin(), with_pairs=True)

    def _loader(self, split: Split, plan: Callable[[int], Plan], origin: Origin, with_pairs: bool) -> PlanLoader:
        rank, workers = self._world()[0], self.loading.workers
        return PlanLoader(self.examples(split), self.tokenizers, plan, rank, origin, workers, with_pairs)

    def _world(self) -> tuple[int, int]:
        """This process's rank and the number of processes; one alone without a Trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class ExtractiveDataModule(Seq2SeqDataModule):
    """The same for a model that makes extracts: a source's target is a label for each of its sentences."""

    gives_labels = True

    def __init__(
        self, task: Task, tokenizers: Tokenizers, loading: Loading | None = None, extraction: Extraction | None = None
    ) -> None:
        super().__init__(task, tokenizers, loading)
        self.extraction = extraction or Extraction()

    def _labels(self) -> SentenceLabels:
        return SentenceLabels(self.tokenizers, self.extraction)


@rank_zero_only
def _tell_same(task: Task, content: dict[Split, str]) -> None:
    """Say on stderr which splits hold the same examples although other files were named for them."""
    for first, second in combinations(SPLITS, 2):
        if task.path(first) != task.path(second) and content[first] == content[second]:
            say(
                f"task.{second} holds the same examples as task.{first}, although they are different files:"
                f" {task.path(second)} and {task.path(first)}"
            )


def _same_every_epoch(plan: Plan, epoch: int) -> Any:
    return plan
