"""Whether sources and targets of some length fit into the position tables."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from encdec_lightning.composition.architectures import length_limit
from encdec_lightning.composition.options import Composition


def length_problems(
    composition: Composition, configs: Sequence[PretrainedConfig], source: int, target: int
) -> list[tuple[str, int, str]]:
    """Which of two lengths in tokens is beyond a position table: (`source` or `target`, it, what would be right).

    `configs` are those of `composition.sides`.
    """
    limits = [length_limit(config) for config in configs]
    if composition.reads_prefix:
        (limit,) = limits
        if limit is None or source + target <= limit:
            return []
        expected = f"{composition.decoder} has positions for {limit} tokens, source and target together"
        return [("source", source, expected)]
    lengths = ("source", source, composition.encoder), ("target", target, composition.decoder)
    return [
        (name, length, f"{checkpoint} has positions for {limit} tokens")
        for (name, length, checkpoint), limit in zip(lengths, limits, strict=False)  # there may be no decoder
        if limit is not None and length > limit
    ]


def generation_problem(
    composition: Composition, configs: Sequence[PretrainedConfig], source: int, longest: int
) -> str | None:
    """Why targets cannot be `longest` tokens, which the decoder alone decides unless it reads the source as well."""
    found = length_problems(composition, configs, source, longest)
    return next((expected for name, _, expected in found if name == "target" or composition.reads_prefix), None)
