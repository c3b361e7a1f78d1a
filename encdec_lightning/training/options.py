"""The options of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encdec_lightning.errors import require

Freeze = Literal["pretrained", "all_but_cross_attention", "encoder", "decoder"]
Schedule = Literal["constant", "linear", "inverse_sqrt", "noam"]
NEED_WARMUP: tuple[Schedule, ...] = ("inverse_sqrt", "noam")
"""Schedules that are only defined with a warm-up."""
NO_FP16_WEIGHTS = (
    "squares of gradients vanish in fp16, so nothing sound is learned; use bf16-true, bf16-mixed or 16-mixed"
)
"""Why a Trainer's precision 16-true is refused in a fit; it may validate, test and predict."""

FSDP, FSDP_IN_PIECES = "fsdp2", "fsdp2_in_pieces"
"""Names of the strategy that shards a model, as `trainer.strategy` gives them; see fsdp.py."""
NO_SCALER_OF_SHARDS = "Lightning has no gradient scaler for sharded weights; use precision=bf16, or hardware=ddp"
"""Why a Trainer's precision 16-mixed is refused with that strategy."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one optimizer step does, and how large it is."""

    learning_rate: float = 5e-5
    """Peak learning rate; with `noam` the factor in front of the paper's formula (0.05)."""
    fresh_learning_rate: float | None = None
    """Peak learning rate of the parameters that started at random; null: `learning_rate`."""
    schedule: Schedule = "linear"
    """After the warm-up: constant, linear to zero at the last step, or falling with the square root of the step;
    `noam` is the last with the paper's scaling by the model's width."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; biases and layer norms have none."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over the whole vocabulary."""
    freeze: Freeze | None = None
    """What is not trained. `pretrained`: all that started as a checkpoint has it (the first stage of a new vocabulary).
    `all_but_cross_attention`: all but cross-attention, its gates and the projection between sides of different widths,
    whatever they started from (the first stage of a language model that is given cross-attention). `encoder` or
    `decoder`: that side, with what it shares. null: everything is trained."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = False
    """Compile the layers with torch.compile: minutes at the start, and then faster on a GPU."""

    def __post_init__(self) -> None:
        fresh = self.fresh_learning_rate
        require(
            ("learning_rate", self.learning_rate, self.learning_rate > 0, "it must be above 0"),
            ("fresh_learning_rate", fresh, fresh is None or fresh > 0, "it must be above 0"),
            ("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "it must not be negative"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "it must not be negative"),
            ("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "it must lie in [0, 1)"),
            (
                "schedule",
                self.schedule,
                self.warmup_steps > 0 or self.schedule not in NEED_WARMUP,
                "it needs training.warmup_steps of at least 1",
            ),
        )
