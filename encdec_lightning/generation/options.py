"""The options of generation, under transformers' names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from encdec_lightning.errors import require


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a target text is searched for."""

    num_beams: int = 1
    """Beams of the search; 1 is greedy."""
    max_length: int | None = None
    """Most tokens generated, the end token included; none: the task's max_target_length."""
    min_length: int = 0
    """Fewest tokens generated before the end token."""
    length_penalty: float = 1.0
    """Exponent of the length by which a beam's log-probability is divided; above 1 favours longer texts."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice in one text; 0: any may."""
    early_stopping: bool = False
    """End a beam search as soon as there are `num_beams` finished candidates."""

    def __post_init__(self) -> None:
        longest = self.max_length
        require(
            ("num_beams", self.num_beams, self.num_beams >= 1, "it must be at least 1"),
            ("max_length", longest, longest is None or longest >= 1, "it must be at least 1"),
            (
                "min_length",
                self.min_length,
                self.min_length >= 0 and (longest is None or self.min_length <= longest),
                f"it must lie between 0 and max_length{'' if longest is None else f' ({longest})'}",
            ),
            (
                "no_repeat_ngram_size",
                self.no_repeat_ngram_size,
                self.no_repeat_ngram_size >= 0,
                "it must not be negative",
            ),
        )

    def arguments(self, max_target_length: int) -> dict[str, Any]:
        """Keyword arguments of `transformers.GenerationMixin.generate`."""
        arguments = asdict(self)
        # transformers counts the start token in neither of these two.
        arguments["max_new_tokens"] = arguments.pop("max_length") or max_target_length
        arguments["min_new_tokens"] = arguments.pop("min_length")
        if self.num_beams == 1:  # transformers warns when a greedy search is given the options of beams
            del arguments["length_penalty"], arguments["early_stopping"]
        return {**arguments, "do_sample": False}
