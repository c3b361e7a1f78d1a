"""Pairs in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.records import Pair


class Examples(Protocol):
    """N tokenized pairs, in memory or on disk."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(N, 2): tokens of source and target as the model sees them."""
        ...

    def ids(self, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The token ids of an example's source, (S,), and target, (T,)."""
        ...

    def pair(self, number: int) -> Pair:
        """An example's id and texts."""
        ...


class InMemory:
    """Examples of a few pairs."""

    def __init__(
        self, pairs: Sequence[Pair], sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> None:
        self._pairs = pairs
        self._ids = [(np.asarray(ids), np.asarray(other)) for ids, other in zip(sources, targets, strict=True)]
        counts = [(len(source), len(target)) for source, target in self._ids]
        self.lengths: NDArray[np.int32] = np.array(counts, dtype=np.int32).reshape(-1, 2)

    def ids(self, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The token ids of an example's source, (S,), and target, (T,)."""
        return self._ids[number]

    def pair(self, number: int) -> Pair:
        """An example's id and texts."""
        return self._pairs[number]


def tokenize(pairs: Sequence[Pair], tokenizers: Tokenizers, max_source_length: int, max_target_length: int) -> InMemory:
    """Ids of every pair, cut to the lengths given."""
    return InMemory(
        pairs,
        tokenizers.encode_sources([pair.source for pair in pairs], max_source_length),
        tokenizers.encode_targets([pair.target for pair in pairs], max_target_length),
    )
