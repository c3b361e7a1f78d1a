"""A fit ends at the first loss, gradient or weight that is no finite number, before a checkpoint holds it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor, distributed
from torch.nn.utils import get_total_norm

from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.batches.loader import PlanLoader
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import Score
from encdec_lightning.training.fsdp import whole_tensor

SKIPS = 30
"""Steps in a row that fp16's gradient scaler may leave out: it halves its scale of 65,536 each time, to 2^-14."""
NAMED = 20
"""Examples that the sentence names at most."""


@dataclass(frozen=True)
class _MicroBatch:
    """What is kept of a micro-batch until its optimizer step is known to be sound."""

    position: int
    """Its number in the epoch."""
    ids: tuple[str, ...]
    """Of its examples, where the batch knows them."""
    loss: Tensor
    """(): its share of the step's loss."""


@dataclass(frozen=True)
class _Step:
    """An optimizer step whose soundness is not known yet."""

    number: int
    micro_batches: list[_MicroBatch]
    norm: Tensor
    """(): the 2-norm of all gradients of this rank."""
    unsound: Tensor
    """(): above 0 if a loss or a norm is not finite on any rank; in the processor's memory."""
    copied: torch.cuda.Event | None
    """When `unsound` has arrived there."""


class FiniteSteps(lightning.Callback):
    """Raises `UserError` in the step whose loss or gradient norm is not finite, on all ranks, with the examples' ids.

    On a processor that is before the optimizer changes a weight. A GPU is not waited for in each step: there it is one
    step later, and always before a validation, the end of an epoch, or a checkpoint. A checkpoint of weights that are
    not finite is never written, nor one that follows a validation whose `val/loss` is not finite. With a gradient
    scaler (16-mixed), which leaves such steps out, only `SKIPS` of them in a row end the fit.

    Args:
        deferred: whether a step is judged one step later; none: on a GPU only.
    """

    def __init__(self, deferred: bool | None = None) -> None:
        self._deferred = deferred
        self._batch: tuple[int, tuple[str, ...]] = (0, ())
        self._micro_batches: list[_MicroBatch] = []
        self._waiting: _Step | None = None
        self._skipped = 0
        self.norm: Tensor | None = None
        """(): the 2-norm of the gradients in the step under way, this rank's or all ranks', before they are clipped."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget a fit before."""
        self._micro_batches, self._waiting, self._skipped, self.norm = [], None, 0, None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep which batch this is."""
        self._batch = batch_idx, tuple(pair.id for pair in batch.pairs) if isinstance(batch, Batch) else ()

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Keep its loss."""
        self._micro_batches.append(_MicroBatch(*self._batch, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step, or the one before where it is deferred."""
        self.settle(trainer)
        micro_batches, self._micro_batches = self._micro_batches, []
        parameters = (each for group in optimizer.param_groups for each in group["params"])
        self.norm = whole_tensor(get_total_norm([each.grad for each in parameters if each.grad is not None]))
        unsound = _on_any_rank(trainer, [self.norm, *(each.loss for each in micro_batches)])
        copied = None
        if unsound.is_cuda:
            unsound = unsound.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._waiting = _Step(trainer.global_step + 1, micro_batches, self.norm, unsound, copied)
        if not (copied is not None if self._deferred is None else self._deferred):
            self.settle(trainer)

    def settle(self, trainer: lightning.Trainer) -> None:
        """Judge the step that waits for it, if one does; all ranks must call it together."""
        step, self._waiting = self._waiting, None
        if step is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        if not step.unsound:
            self._skipped = 0
            return
        scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        self._skipped += 1
        if scaler is None or not scaler.is_enabled() or self._skipped > SKIPS:
            raise _error(trainer, step, self._skipped)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """No step waits longer than its epoch, whose plan tells its examples."""
        self.settle(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nor is a model validated before its last step is judged."""
        self.settle(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End a fit whose validation loss is not finite; callbacks that write checkpoints come later."""
        loss = float(trainer.callback_metrics.get("val/loss", 0.0))
        if trainer.state.fn == "fit" and not math.isfinite(loss):
            expected = (
                f"it must be a finite number: the fit ends after step {trainer.global_step}, and the checkpoints of"
                f" before are kept; {_advice(trainer)}"
            )
            raise UserError("val/loss", loss, expected)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Raise `UserError` instead of writing weights that are not finite."""
        self.settle(trainer)
        norm = whole_tensor(get_total_norm(pl_module.parameters()))
        if _on_any_rank(trainer, [norm]):
            expected = (
                f"the weights must be finite numbers: the fit ends after step {trainer.global_step}, no checkpoint of"
                f" them is written, and those of before are kept; {_advice(trainer)}"
            )
            raise UserError("norm of the weights", float(norm), expected)


def say_missing(trainer: lightning.Trainer, scores: Mapping[str, Score], failed: Mapping[str, str]) -> None:
    """Say on stderr which scores of a validation are missing or no finite numbers, and why.

    `failed` is {name: why it is missing}; raises `UserError` where a callback needs one of those.
    """
    needed = {getattr(callback, "monitor", None) for callback in trainer.callbacks}  # type: ignore[attr-defined]
    for name, reason in failed.items():
        if f"val/{name}" in needed:
            raise UserError("task.monitor", f"val/{name}", f"this metric fails ({reason})")
    wrong = {name: f"its value is {each.value}" for name, each in scores.items() if not math.isfinite(each.value)}
    for name, reason in ({**failed, **wrong}).items():
        if trainer.is_global_zero:
            print(f"val/{name} is missing after step {trainer.global_step}: {reason}", file=sys.stderr)


def _on_any_rank(trainer: lightning.Trainer, values: Iterable[Tensor]) -> Tensor:
    """(): 1.0 if one of some values, each (), is not finite on any rank, else 0.0; nothing waits for a GPU."""
    sound = torch.stack([value.isfinite() for value in values]).all()
    unsound = 1.0 - sound.float()
    if trainer.world_size > 1:
        distributed.all_reduce(unsound, op=distributed.ReduceOp.MAX)
    return unsound


def _error(trainer: lightning.Trainer, step: _Step, steps: int) -> UserError:
    """The sentence on a step, the same on all ranks, which must all call this."""
    own = [(_ids(trainer, each), float(each.loss)) for each in step.micro_batches]
    ranks: list[Any] = [(own, float(step.norm))]
    if trainer.world_size > 1:
        ranks = [None] * trainer.world_size
        distributed.all_gather_object(ranks, (own, float(step.norm)))
    batches = [batch for losses, _ in ranks for batch in losses]
    wrong = [batch for batch in batches if not math.isfinite(batch[1])]
    field, value = (
        ("train/loss", wrong[0][1])
        if wrong
        else ("gradient norm", next(norm for _, norm in ranks if not math.isfinite(norm)))
    )
    ids = [each for ids, _ in wrong or batches for each in ids]
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    examples = f" with the examples {', '.join(map(repr, ids[:NAMED]))}{more}" if ids else ""
    times = f", the last of {steps} in a row," if steps > 1 else ""
    expected = (
        f"it must be a finite number: step {step.number}{times} ends the fit{examples}, and the checkpoints of before"
        f" are kept; {_advice(trainer)}"
    )
    return UserError(field, value, expected)


def _ids(trainer: lightning.Trainer, batch: _MicroBatch) -> tuple[str, ...]:
    """The ids of a micro-batch's examples: training batches do not carry them, the loader's plan knows them."""
    loader = trainer.train_dataloader
    return loader.ids(batch.position) if not batch.ids and isinstance(loader, PlanLoader) else batch.ids


def _advice(trainer: lightning.Trainer) -> str:
    """What may help."""
    measures = ["a lower training.learning_rate"]
    measures += [] if trainer.gradient_clip_val else ["trainer.gradient_clip_val=1.0"]
    measures += ["trainer.precision=32-true"] if str(trainer.precision) not in ("32-true", "64-true") else []
    told = measures[0] if len(measures) == 1 else f"{', '.join(measures[:-1])} or {measures[-1]}"
    return f"{told} may help"
