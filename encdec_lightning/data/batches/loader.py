"""The loaders Lightning iterates: batches of a plan, in order, with a position that a checkpoint keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from encdec_lightning.data.batches.batch import Batch, SpecialTokens, collate
from encdec_lightning.data.batches.plan import Plan
from encdec_lightning.data.examples.examples import Examples
from encdec_lightning.errors import UserError


@dataclass(frozen=True)
class Origin:
    """What a position belongs to: data, and a plan of them."""

    data: str = ""
    """A hash of ids and texts."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The options that decide which examples a batch holds, by name."""


class PlanLoader:
    """Yields this rank's batches of `plan(epoch)`.

    Lightning saves and restores any training loader with `state_dict` and `load_state_dict`. The position counts
    batches where they are yielded, so a checkpoint in mid-epoch continues with the very next batch, however many
    workers prepare them.
    """

    def __init__(
        self,
        examples: Examples,
        tokens: SpecialTokens,
        plan: Callable[[int], Plan],
        rank: int = 0,
        origin: Origin | None = None,
        workers: int = 0,
        with_pairs: bool = True,
    ) -> None:
        self.examples = examples
        self.origin = origin or Origin()
        self.sampler, self.batch_sampler = _Sampler(self), None
        self._tokens, self._plan, self._rank = tokens, plan, rank
        self._workers, self._with_pairs = workers, with_pairs
        self._epoch, self._yielded, self._resume_at = 0, 0, 0
        self._length = plan(0).batches
        self.seconds = 0.0
        """How long callers have waited for batches."""

    def __len__(self) -> int:
        """Batches on this rank in an epoch, the same in every epoch."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration follows."""
        if epoch != self._epoch:
            self._epoch, self._resume_at = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """From the epoch's first batch, or once from where a loaded state had stopped."""
        self._yielded, self._resume_at = self._resume_at, 0
        batches = _Batches(self.examples, self._tokens, self._plan(self._epoch), self._rank, self._with_pairs)
        positions = range(self._yielded, self._length)
        started = time.perf_counter()
        for batch in self._ahead(batches, positions) if self._workers else map(_readable(batches), positions):
            self.seconds += time.perf_counter() - started
            self._yielded += 1
            yield batch
            started = time.perf_counter()

    def _ahead(self, batches: _Batches, positions: range) -> Iterator[Batch]:
        """Batches that worker processes prepare, in order."""
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=positions,
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every epoch would draw from the global one
        )
        with _no_parallel_tokenizers():
            return iter(loader)

    def ids(self, position: int) -> tuple[str, ...]:
        """The ids of the examples of this rank's batch at a position of the epoch."""
        numbers, _ = self._plan(self._epoch).batch(position, self._rank)
        return tuple(self.examples.pair(int(number)).id for number in numbers)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, and of which data."""
        position = {"epoch": self._epoch, "yielded": self._yielded % self._length}
        return {**position, "data": self.origin.data, "plan": dict(self.origin.plan)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there; raises `UserError` when the data, or in mid-epoch the plan, are not the same."""
        if state["data"] != self.origin.data:
            expected = f"the checkpoint was trained on other data ({state['data'][:12]}), resume with those"
            raise UserError("task.train", self.origin.data[:12], expected)
        if state["yielded"]:
            for name, value in state["plan"].items():
                if self.origin.plan.get(name) != value:
                    expected = f"the checkpoint stands in the middle of an epoch planned with {value}, resume with that"
                    raise UserError(name, self.origin.plan.get(name), expected)
        self._epoch, self._resume_at = state["epoch"], state["yielded"]
        self._yielded = self._resume_at


@contextmanager
def _no_parallel_tokenizers() -> Iterator[None]:
    """Tokenizers warn in processes forked after their threads have run, unless they are told to do without threads."""
    name = "TOKENIZERS_PARALLELISM"
    chosen = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if chosen is not None:
            os.environ[name] = chosen


def _readable(batches: _Batches) -> Callable[[int], Batch]:
    """What gives the batch at a position, where a GPU can read it while the processor goes on."""
    if not torch.cuda.is_available():
        return batches.__getitem__
    return lambda position: batches[position].pin_memory()


class _Sampler(SequentialSampler):
    """Stands for the order of a loader's plan: Lightning calls `set_epoch` on samplers, and would replace another."""

    def __init__(self, loader: PlanLoader) -> None:
        super().__init__(loader)
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Pass it on."""
        self._loader.set_epoch(epoch)


class _Batches(Dataset[Batch]):
    """The batches of a rank's epoch, by position."""

    def __init__(self, examples: Examples, tokens: SpecialTokens, plan: Plan, rank: int, with_pairs: bool) -> None:
        self._examples, self._tokens, self._plan = examples, tokens, plan
        self._rank, self._with_pairs = rank, with_pairs

    def __getitem__(self, position: int) -> Batch:
        indices, update_tokens = self._plan.batch(position, self._rank)
        return collate(self._examples, indices, self._tokens, update_tokens, self._with_pairs)
