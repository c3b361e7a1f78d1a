"""The loaders Lightning iterates: batches of a plan, in order, with a position that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batch import Batch, collate
from encdec_lightning.data.plan import Update
from encdec_lightning.data.tokenization import Examples
from encdec_lightning.errors import UserError


class PlanLoader:
    """Yields this rank's batches of `plan(epoch)`.

    Lightning saves and restores any training loader with `state_dict` and `load_state_dict`. The position counts
    batches where they are yielded, so a checkpoint in mid-epoch continues with the very next batch.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizers: Tokenizers,
        plan: Callable[[int], list[Update]],
        rank: int = 0,
        fingerprint: str = "",
    ) -> None:
        self.examples = examples
        self.fingerprint = fingerprint
        self.sampler, self.batch_sampler = self, None  # Lightning calls `set_epoch` on a loader's sampler
        self._tokenizers, self._plan, self._rank = tokenizers, plan, rank
        self._epoch, self._yielded, self._resume_at = 0, 0, 0
        self._length = sum(len(update.micro_batches) for update in plan(0))

    def __len__(self) -> int:
        """Batches on this rank in an epoch, the same in every epoch."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose plan the next iteration follows."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """From the epoch's first batch, or once from where a loaded state had stopped."""
        self._yielded, self._resume_at = self._resume_at, 0
        batches = [(row[self._rank], update) for update in self._plan(self._epoch) for row in update.micro_batches]
        for indices, update in batches[self._yielded :]:
            self._yielded += 1
            yield collate(self.examples, indices, self._tokenizers, update.target_tokens)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, and of which data."""
        return {"epoch": self._epoch, "yielded": self._yielded % self._length, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there; raises `UserError` when the data are not the same."""
        if state["fingerprint"] != self.fingerprint:
            expected = f"the checkpoint was trained on other data ({state['fingerprint'][:12]}), resume with those"
            raise UserError("task.train", self.fingerprint[:12], expected)
        self._epoch, self._resume_at = state["epoch"], state["yielded"]
        self._yielded = self._resume_at
