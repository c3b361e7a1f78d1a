"""The options of generation, under transformers' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from encdec_lightning.errors import UserError, one_of, require

LengthNormalization = Literal["length", "wu"]
Quantize = Literal["int8"]
WHOLE = ("num_beams", "num_return_sequences", "max_length", "min_length", "no_repeat_ngram_size", "top_k")
COLDEST = 0.001  # temperature: below it even close logits would leave the numbers of fp32


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a target text is searched for."""

    num_beams: int = 1
    """Beams of the search; 1 is greedy."""
    num_return_sequences: int = 1
    """Targets for each source: the best of the beams, or so many draws."""
    max_length: int | None = None
    """Most tokens generated, the end token included; null: the task's max_target_length."""
    min_length: int = 0
    """Fewest tokens generated before the end token."""
    length_penalty: float = 1.0
    """Exponent of the length by which a beam's log-probability is divided; above 1 favours longer texts."""
    length_normalization: LengthNormalization = "length"
    """What is raised to that power: the length, as in transformers, or (5 + length) / 6 (Wu et al. 2016, section 7)."""
    early_stopping: bool | Literal["never"] = False
    """When a beam search ends that has `num_beams` finished candidates: at once (true), when the best running one would
    not be better if it ended now (false), or not at any length, for a positive `length_penalty` ("never")."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice in one text; 0: any may. 3 is the trigram blocking of Paulus et al. 2017."""
    do_sample: bool = False
    """Draw each token from the model's distribution, with one beam."""
    temperature: float = 1.0
    """What the logits are divided by before a draw."""
    top_k: int = 0
    """Draw from so many likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that hold this probability, after `top_k`; 1: from all."""
    quantize: Quantize | None = None
    """Compute the linear layers and the LM head in int8 on the CPU, their weights quantized per output, what they are
    given per token; null: with the weights as they are."""

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in WHOLE if name != "max_length" or self.max_length is not None}
        require(*((name, value, type(value) is int, "it must be a whole number") for name, value in whole.items()))
        longest, returned = self.max_length, self.num_return_sequences
        most = f"without do_sample it must be at most num_beams ({self.num_beams})"
        only_drawn = "it needs do_sample=true"
        normalizations = get_args(LengthNormalization)
        stops = self.early_stopping is True or self.early_stopping is False or self.early_stopping == "never"
        require(
            ("num_beams", self.num_beams, self.num_beams >= 1, "it must be at least 1"),
            ("num_beams", self.num_beams, not self.do_sample or self.num_beams <= 1, "do_sample has one beam"),
            ("num_return_sequences", returned, returned >= 1, "it must be at least 1"),
            ("num_return_sequences", returned, self.do_sample or returned <= max(1, self.num_beams), most),
            ("max_length", longest, longest is None or longest >= 1, "it must be at least 1"),
            (
                "min_length",
                self.min_length,
                self.min_length >= 0 and (longest is None or self.min_length <= longest),
                f"it must lie between 0 and max_length{'' if longest is None else f' ({longest})'}",
            ),
            (
                "length_normalization",
                self.length_normalization,
                self.length_normalization in normalizations,
                one_of(normalizations),
            ),
            ("early_stopping", self.early_stopping, stops, "it must be true, false or never"),
            ("quantize", self.quantize, self.quantize in (None, *get_args(Quantize)), "it must be int8 or null"),
            ("length_penalty", self.length_penalty, abs(self.length_penalty) <= 8, "it must lie between -8 and 8"),
            (
                "no_repeat_ngram_size",
                self.no_repeat_ngram_size,
                self.no_repeat_ngram_size >= 0,
                "it must not be negative",
            ),
            ("temperature", self.temperature, self.temperature >= COLDEST, f"it must be at least {COLDEST}"),
            ("temperature", self.temperature, self.do_sample or self.temperature == 1, only_drawn),
            ("top_k", self.top_k, self.top_k >= 0, "it must not be negative"),
            ("top_k", self.top_k, self.do_sample or self.top_k == 0, only_drawn),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "it must lie above 0, and not above 1"),
            ("top_p", self.top_p, self.do_sample or self.top_p == 1, only_drawn),
        )

    @property
    def targets_per_source(self) -> int:
        """Targets of one source that a model works on at once."""
        return max(self.num_beams, self.num_return_sequences)

    def penalty(self, length: int) -> float:
        """What the summed log-probability of a target of so many tokens is divided by."""
        base = float(length) if self.length_normalization == "length" else (5 + length) / 6
        return base**self.length_penalty if base else 1.0

    def beyond_transformers(self) -> list[str]:
        """The names of the options that transformers' generate does not have, and that change texts here."""
        return [
            field for field, option in LACKING.items() if getattr(self, field) != option.neutral and option.acts(self)
        ]

    def arguments(self, max_target_length: int) -> dict[str, Any]:
        """Keyword arguments of `transformers.GenerationMixin.generate`. Raises `UserError` for what it cannot do."""
        for field in self.beyond_transformers():
            raise UserError(field, getattr(self, field), LACKING[field].expected)
        # transformers counts the start token in neither of these two.
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_length or max_target_length,
            "min_new_tokens": self.min_length,
            "num_beams": self.num_beams,
            "num_return_sequences": self.num_return_sequences,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "do_sample": self.do_sample,
        }
        if self.num_beams > 1:  # transformers warns when a greedy search is given the options of beams, or of draws
            arguments |= {"length_penalty": self.length_penalty, "early_stopping": self.early_stopping}
        if self.do_sample:
            arguments |= {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return arguments


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """An option of `Generation` that transformers' generate does not have."""

    neutral: object
    """The value that says what transformers does."""
    acts: Callable[[Generation], bool]
    """Whether the other values change any text, the other options being what they are."""
    expected: str
    """What would be right, where transformers' generate would have to do it."""
    remark: str
    """What is said of an export, which leaves it out."""


LACKING: dict[str, Lacking] = {
    "length_normalization": Lacking(
        neutral="length",
        acts=lambda options: options.num_beams > 1 and options.length_penalty != 0,
        expected="transformers' generate knows length only",
        remark="The scores were made with the length normalization of Wu et al. (2016), `length_normalization=wu`, "
        "which transformers does not know: it divides by the length, so some texts of this code differ.",
    ),
    "quantize": Lacking(
        neutral=None,
        acts=lambda options: True,
        expected="transformers' generate computes with the weights as they are; leave it out",
        remark="The scores were made in int8, `generation.quantize=int8`, which is no part of the weights: some texts "
        "of this code differ.",
    ),
}
"""{option: what must be known of it}, for every one that transformers' generate does not have."""
