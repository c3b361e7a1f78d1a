"""The options of a task (what is learned) and of loading (how it reaches the model)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from encdec_lightning.errors import require


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned: texts, columns, lengths, and how the result is judged."""

    train: str
    """Training pairs: a jsonl file (.gz too), or an embedded data set: pydoc, pydoc_names."""
    validation: str
    """Validation pairs, as `train`; an embedded data set gives the part of its split that fits the role."""
    test: str | None = None
    """Test pairs, as `train`; none: `validation` is tested."""
    source: str = "source"
    """Column of the text that is read."""
    target: str = "target"
    """Column of the text to be written."""
    id: str | None = None
    """Column of the examples' ids; none: the number of the line."""
    preprocess: list[str] | None = None
    """Functions `Pair -> Pair | None` by dotted path, applied in this order; a None drops the pair."""
    max_source_length: int = 512
    """Longest source in tokens with the special ones; a longer one is cut."""
    max_target_length: int = 128
    """Longest target in tokens with the end token; a longer one is cut."""
    train_examples: int | None = None
    """Use only the first so many training pairs; none: all."""
    validation_examples: int | None = None
    """Use only the first so many validation pairs; none: all."""
    test_examples: int | None = None
    """Use only the first so many test pairs; none: all."""
    validation_generate: int = 0
    """Generate for the first so many validation pairs at every validation, and log `val/rouge1` and the like."""
    metrics: list[str] | None = None
    """Metrics by name (rouge, exact_match) or the dotted path of a class of your own; none: rouge."""
    baselines: list[str] | None = None
    """Baselines in the final table, such as lead_sentence, lead_8_words, copy; none: no baseline."""
    monitor: str = "val/loss"
    """What chooses the best checkpoint and stops early."""
    monitor_mode: Literal["min", "max"] = "min"
    """Whether less or more of `monitor` is better."""

    def __post_init__(self) -> None:
        require(
            ("max_source_length", self.max_source_length, self.max_source_length >= 3, "it must be at least 3"),
            ("max_target_length", self.max_target_length, self.max_target_length >= 2, "it must be at least 2"),
            (
                "validation_generate",
                self.validation_generate,
                self.validation_generate >= 0,
                "it must not be negative",
            ),
            *(
                (name, value, value is None or value >= 1, "it must be at least 1, or null for all")
                for name in ("train_examples", "validation_examples", "test_examples")
                for value in [getattr(self, name)]
            ),
        )

    def path(self, split: Literal["train", "validation", "test"]) -> str:
        """Where the pairs of a split are."""
        return {"train": self.train, "validation": self.validation, "test": self.test or self.validation}[split]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How examples become batches."""

    batch_tokens: int = 8000
    """Most tokens in a micro-batch, padding and both sides included."""
    evaluation_batch_tokens: int | None = None
    """The same for validation and generation; none: as `batch_tokens`."""
    accumulate: int = 1
    """Micro-batches on each device for one optimizer step; the loss stays exact per target token."""
    seed: int = 0
    """Seed of the order of the examples."""
    cache: str | None = None
    """Folder of cached data; none: $ENCDEC_LIGHTNING_CACHE, else the user's cache folder."""

    def __post_init__(self) -> None:
        budget = self.evaluation_batch_tokens
        require(
            ("batch_tokens", self.batch_tokens, self.batch_tokens >= 1, "it must be at least 1"),
            ("evaluation_batch_tokens", budget, budget is None or budget >= 1, "it must be at least 1"),
            ("accumulate", self.accumulate, self.accumulate >= 1, "it must be at least 1"),
            ("seed", self.seed, self.seed >= 0, "it must not be negative"),
        )
