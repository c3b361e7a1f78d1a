"""Pairs in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.records import Pair


@dataclass(frozen=True)
class Examples:
    """Tokenized pairs: `sources[i]` and `targets[i]` are the ids of `pairs[i]`."""

    pairs: Sequence[Pair]
    sources: list[list[int]]
    targets: list[list[int]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N, 2): tokens of source and target."""
        counts = [(len(source), len(target)) for source, target in zip(self.sources, self.targets, strict=True)]
        return np.array(counts, dtype=np.int64).reshape(-1, 2)


def tokenize(pairs: Sequence[Pair], tokenizers: Tokenizers, max_source_length: int, max_target_length: int) -> Examples:
    """Ids of every pair, cut to the lengths given."""
    return Examples(
        pairs=pairs,
        sources=tokenizers.encode_sources([pair.source for pair in pairs], max_source_length),
        targets=tokenizers.encode_targets([pair.target for pair in pairs], max_target_length),
    )
