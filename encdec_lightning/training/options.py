"""The options of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from encdec_lightning.errors import require

Freeze = Literal["pretrained", "all_but_cross_attention", "encoder", "decoder"]
Sides = Literal["both", "encoder", "decoder"]
Schedule = Literal["constant", "linear", "cosine", "inverse_sqrt", "noam"]
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
class Lora:
    """Low-rank adaptation (Hu et al., 2021): pretrained weights stay, and what is added to those of attention learns.

    Beside each projection of attention that a checkpoint has (queries, keys, values, output) two narrow matrices are
    trained; what started at random is trained as a whole. Texts are generated with, and the export holds, plain weights
    that both make together.
    """

    rank: int | None = None
    """Train this many dimensions beside each projection of attention, instead of pretrained weights; null: no LoRA."""
    alpha: float = 16.0
    """What is added is multiplied with alpha / rank."""
    dropout: float = 0.0
    """Dropout probability of what the added matrices read."""
    sides: Sides = "both"
    """Which side's pretrained weights stay and are added to: all there are, or one; the other side is then trained as
    without LoRA."""

    def __post_init__(self) -> None:
        require(
            ("rank", self.rank, self.rank is None or self.rank >= 1, "it must be at least 1, or null for no LoRA"),
            ("alpha", self.alpha, self.alpha > 0, "it must be above 0"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "it must lie in [0, 1)"),
            ("sides", self.sides, self.sides in get_args(Sides), f"it must be one of {', '.join(get_args(Sides))}"),
            *(
                (name, getattr(self, name), False, "without training.lora.rank there is no LoRA that it could change")
                for name in ("alpha", "dropout", "sides")
                if self.rank is None and getattr(self, name) != self.__dataclass_fields__[name].default
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one optimizer step does, and how large it is."""

    learning_rate: float = 5e-5
    """Peak learning rate; with `noam` the factor in front of the paper's formula (0.05)."""
    fresh_learning_rate: float | None = None
    """Peak learning rate of the parameters that started at random, LoRA's among them; null:
    `learning_rate`."""
    encoder_learning_rate: float | None = None
    """Peak learning rate of the encoder's parameters, of those that it shares too, unless they started at random and
    `fresh_learning_rate` is given; null: `learning_rate`. Liu & Lapata train a pretrained encoder more slowly than a
    decoder that starts at random."""
    schedule: Schedule = "linear"
    """After the warm-up: constant, linear or half a cosine to zero one step after the last, or falling with the square
    root of the step; `noam` is the last with the paper's scaling by the model's width."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    encoder_warmup_steps: int | None = None
    """The same for the encoder's parameters, of those that it shares too; null: `warmup_steps`."""
    weight_decay: float = 0.0
    """Weight decay of matrices; biases and layer norms have none. AdamW decouples it, Adam adds it to the gradient."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over the whole vocabulary."""
    freeze: Freeze | None = None
    """What is not trained. `pretrained`: all that started as a checkpoint has it (the first stage of a new vocabulary).
    `all_but_cross_attention`: all but cross-attention, its gates and the projection between sides of different widths,
    whatever they started from (the first stage of a language model that is given cross-attention). `encoder` or
    `decoder`: that side, with what it shares. null: everything is trained."""
    lora: Lora = Lora()
    """Train what is added to the weights of attention, instead of pretrained weights."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = False
    """Compile the layers with torch.compile: minutes at the start. It is meant for GPUs; its gain was not measured."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Training:
        """The options of plain values, as `asdict` gives them; those of an older checkpoint lack `lora`."""
        return cls(**{**values, "lora": Lora(**values.get("lora", {}))})

    def __post_init__(self) -> None:
        fresh, lora = self.fresh_learning_rate, self.lora
        encoder, encoder_warmup = self.encoder_learning_rate, self.encoder_warmup_steps
        require(
            ("learning_rate", self.learning_rate, self.learning_rate > 0, "it must be above 0"),
            ("fresh_learning_rate", fresh, fresh is None or fresh > 0, "it must be above 0"),
            ("encoder_learning_rate", encoder, encoder is None or encoder > 0, "it must be above 0"),
            ("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "it must not be negative"),
            (
                "encoder_warmup_steps",
                encoder_warmup,
                encoder_warmup is None or encoder_warmup >= (self.schedule in NEED_WARMUP),
                f"it must be at least 1 with {self.schedule}"
                if self.schedule in NEED_WARMUP
                else "it must not be negative",
            ),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "it must not be negative"),
            ("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "it must lie in [0, 1)"),
            (
                "schedule",
                self.schedule,
                self.warmup_steps > 0 or self.schedule not in NEED_WARMUP,
                "it needs training.warmup_steps of at least 1",
            ),
            (
                "freeze",
                self.freeze,
                lora.rank is None
                or self.freeze in (None, "pretrained")
                or (self.freeze in ("encoder", "decoder") and lora.sides not in ("both", self.freeze)),
                "training.lora trains beside pretrained weights, which it leaves as they are; leave freeze away"
                if self.freeze == "all_but_cross_attention"
                else "training.lora trains that side, so that training.lora.sides must be the other one",
            ),
        )
