"""Visible speed: real tokens, the share of the device's peak, and where a step's time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import lightning
import torch
from torch import distributed

from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.training.callbacks.progress import is_for_bar
from encdec_lightning.training.flops import TrainingFlops, process_peak, training_flops
from encdec_lightning.training.precision import is_emulated, low_dtype


@dataclass(frozen=True)
class Totals:
    """What all ranks have done together, from the first start of a training to its last checkpoint or its end.

    Validation and checkpoints are left out, and so are steps that were lost with a killed process.
    """

    seconds: float = 0.0
    """The slowest rank's; of all starts together."""
    tokens: float = 0
    """Real tokens, source and target."""
    examples: float = 0
    flops: float = 0.0
    """What the model's mathematics needs."""
    peak_flops: float = 0.0
    """What the devices could have done in the same time."""
    target_tokens: float = 0
    """Real target tokens alone."""

    @property
    def tokens_per_second(self) -> float:
        """Of all ranks."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def mfu(self) -> float:
        """The share of the devices' peak."""
        return self.flops / self.peak_flops if self.peak_flops else 0.0


PARTS = ("data", "forward", "backward", "optimizer")


class Throughput(lightning.Callback):
    """Logs as often as the Trainer does, over the batches since the last time, without validation and checkpoints.

    `train/tokens_per_second` (source and target, without padding) and `train/examples_per_second`, of all ranks;
    `train/padding`, the share of padding in the batches; `train/mfu`, the share of the matrix products' peak, which is
    measured before the first step; `train/seconds_data`, `_forward`, `_backward`, `_optimizer`, of an optimizer step,
    waiting for data included; `train/seconds`, `train/tokens` and `train/target_tokens`, of the whole training so far,
    for curves against them; `train/memory_gib`, the most memory so far: the device's, or the process's on CPU. On a
    GPU, which works behind the program's back, the parts are those of the last batch alone, before which the program
    waits.
    """

    logged: ClassVar[tuple[str, ...]] = (
        *("train/tokens_per_second", "train/examples_per_second", "train/padding", "train/mfu", "train/memory_gib"),
        *(f"train/seconds_{part}" for part in PARTS),
        *("train/seconds", "train/tokens", "train/target_tokens"),
        "tokens/s",
    )
    """The names of all values that it logs: what may be monitored (`launch/checks/monitors.py`)."""

    def __init__(self) -> None:
        self._since: Counter[str] = Counter()
        self._started = self._mark = 0.0
        self._waited = 0.0
        self._total = 0
        self._sampled = True
        self._flops: TrainingFlops | None = None
        self._peak = 0.0
        self._own = Totals()
        self._before = Totals()
        self.totals = Totals()
        """At the end of a fit: of all ranks and all starts."""

    def state_dict(self) -> dict[str, Any]:
        """The totals so far; every rank has to call it."""
        return asdict(self._gathered())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._before, self._own = Totals(**state_dict), Totals()
        self.totals = self._before

    def _gathered(self) -> Totals:
        parts = [self._own]
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, self._own)
            parts = gathered
        sums = {each.name: sum(getattr(part, each.name) for part in parts) for each in fields(Totals)}
        sums["seconds"] = max(part.seconds for part in parts)
        return Totals(**{name: getattr(self._before, name) + value for name, value in sums.items()})

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Measure the device, where an earlier fit of the process has not."""
        self._total = module.total_steps()
        self._flops = training_flops(module.model)
        dtype = low_dtype(trainer.precision) or torch.float32
        self._peak = process_peak(module.device, dtype, torch.get_num_threads())
        self._waited = getattr(trainer.train_dataloader, "seconds", 0.0)
        if is_emulated(trainer.precision, module.device) and trainer.is_global_zero:
            print(
                f"Trainer.precision is {trainer.precision}: this processor has no instructions for it; with 32-true "
                "(precision=fp32) the fit would be many times faster.",
                file=sys.stderr,
            )

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Batch, index: int) -> None:
        """Start the clock."""
        self._sampled = module.device.type == "cpu" or self._logs_at(trainer, index)
        self._started = self._mark = self._now(module)

    def on_before_backward(self, trainer: lightning.Trainer, module: Any, loss: torch.Tensor) -> None:
        """The forward pass is done."""
        self._lap("forward", module)

    def on_after_backward(self, trainer: lightning.Trainer, module: Any) -> None:
        """The backward pass is done."""
        self._lap("backward", module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, index: int
    ) -> None:
        """Stop the clock, count the batch, and log."""
        self._lap("optimizer", module)
        waited = getattr(trainer.train_dataloader, "seconds", 0.0)
        data, self._waited = waited - self._waited, waited
        seconds = data + time.perf_counter() - self._started
        padded = batch.source_ids.numel() + batch.target_ids.numel()
        flops = self._flops.of(batch) if self._flops else 0.0
        counts = {"tokens": batch.tokens, "examples": batch.examples, "padded": padded, "flops": flops}
        self._since.update(counts | {"batches": 1, "seconds": seconds, "data": data})
        own = self._own
        self._own = Totals(
            own.seconds + seconds, own.tokens + batch.tokens, own.examples + batch.examples, own.flops + flops,
            own.peak_flops + seconds * self._peak, own.target_tokens + batch.target_tokens,
        )  # fmt: skip
        if self._logs_at(trainer, index):
            self._log(trainer, module)
            self._since.clear()

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Add up."""
        self.totals = self._gathered()

    def _log(self, trainer: lightning.Trainer, module: Any) -> None:
        since, ranks = self._since, trainer.world_size
        names = ("tokens", "examples", "padded", "flops")
        counted = [*(since[name] for name in names), self._own.tokens, self._own.target_tokens]
        exact = torch.float32 if module.device.type == "mps" else torch.float64
        own = torch.tensor(counted, dtype=exact, device=module.device)
        tokens, examples, padded, flops, *so_far = trainer.strategy.reduce(own, reduce_op="sum").tolist()
        slowest = torch.tensor(self._own.seconds, dtype=exact, device=module.device)
        seconds = self._before.seconds + trainer.strategy.reduce(slowest, reduce_op="max").item()
        steps = since["batches"] / trainer.accumulate_grad_batches
        sampled = steps if module.device.type == "cpu" else 1 / trainer.accumulate_grad_batches
        ended = steps if module.device.type == "cpu" else 1  # the last batch, which took the step
        steps_of = {"data": steps, "forward": sampled, "backward": sampled, "optimizer": ended}
        values = {
            "tokens_per_second": tokens / since["seconds"],
            "examples_per_second": examples / since["seconds"],
            "padding": 1 - tokens / padded,
            "mfu": flops / since["seconds"] / self._peak / ranks if self._peak else 0.0,
            "seconds": seconds,
            "tokens": self._before.tokens + so_far[0],
            "target_tokens": self._before.target_tokens + so_far[1],
            "memory_gib": peak_memory(module.device) / 2**30,
            **{f"seconds_{part}": since[part] / steps_of[part] for part in PARTS},
        }
        module.log_dict({f"train/{name}": float(value) for name, value in values.items()}, batch_size=1)
        for_bar = is_for_bar(trainer)
        module.log("tokens/s", float(values["tokens_per_second"]), prog_bar=for_bar, logger=False, batch_size=1)

    def _logs_at(self, trainer: lightning.Trainer, index: int) -> bool:
        """Whether Lightning logs after this batch, or an epoch begins; it counts the steps of the whole fit."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every <= 0 or trainer.barebones:
            return False
        loop = trainer.fit_loop.epoch_loop
        step = loop._batches_that_stepped + 1
        last = trainer.should_stop or step == self._total  # it logs there too
        return index == 0 or ((step % every == 0 or last) and not loop._should_accumulate())

    def _lap(self, part: str, module: Any) -> None:
        if self._sampled:
            now = self._now(module)
            self._since[part] += now - self._mark  # type: ignore[assignment]
            self._mark = now

    def _now(self, module: Any) -> float:
        if self._sampled and module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """The most bytes held so far: a GPU's by this process, else this process's resident memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
