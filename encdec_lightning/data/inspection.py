"""What one should know of a task's data before training on them: lengths, losses, duplicates, leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.data.examples.store import OnDisk

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class SideStatistics:
    """One side of a split: lengths in tokens before they were cut, special tokens included."""

    tokens: int
    """All tokens the model sees."""
    mean: float
    percentiles: tuple[int, ...]
    """The 50th, 95th and 99th."""
    longest: int
    limit: int | None
    """The most that is kept; none of labels of sentences, which are as many as the source has left."""
    truncated: int
    """How many texts were cut to the limit."""
    unknown_tokens: int
    with_unknown_tokens: int
    """How many texts have an unknown token."""
    repeated: int
    """How many texts one before equals, but for case and white space."""
    in_training: int
    """How many texts are also in the training split, on the same side; 0 in the training split itself."""


@dataclass(frozen=True)
class SplitStatistics:
    """A split: what became of its rows, and its two sides."""

    examples: int
    skipped: int
    """Rows that were no examples (`data.on_bad_row`)."""
    dropped: int
    """Pairs that preprocessing left out."""
    too_long: int
    """Pairs left out because of `task.too_long`."""
    repeated: int
    """Pairs that one before equals on both sides."""
    in_training: int
    """Pairs that are also in the training split; 0 in the training split itself."""
    source: SideStatistics
    target: SideStatistics


def inspect(splits: Mapping[str, OnDisk]) -> dict[str, SplitStatistics]:
    """The statistics of each split, leakage against the one called train."""
    training = splits["train"].column("text_hashes") if "train" in splits else np.zeros((0, 2), dtype=np.uint64)
    return {name: _split(examples, training[: 0 if name == "train" else None]) for name, examples in splits.items()}


def _split(examples: OnDisk, training: NDArray[np.uint64]) -> SplitStatistics:
    hashes, meta = examples.column("text_hashes"), examples.meta
    pairs, training_pairs = _of_pairs(hashes), _of_pairs(training)
    source, target = (_side(examples, side, hashes, training) for side in range(2))
    return SplitStatistics(
        examples=len(pairs),
        skipped=meta["skipped"],
        dropped=meta["dropped_by_preprocessing"],
        too_long=meta["too_long_dropped"],
        repeated=_repeated(pairs),
        in_training=_common(pairs, training_pairs),
        source=source,
        target=target,
    )


def _side(examples: OnDisk, side: int, hashes: NDArray[np.uint64], training: NDArray[np.uint64]) -> SideStatistics:
    lengths, meta = examples.column("whole_lengths")[:, side], examples.meta
    return SideStatistics(
        tokens=int(examples.lengths[:, side].sum(dtype=np.int64)),
        mean=float(lengths.mean()),
        percentiles=tuple(int(value) for value in np.percentile(lengths, PERCENTILES, method="higher")),
        longest=int(lengths.max()),
        limit=meta["limits"][side],
        truncated=meta["truncated"][side],
        unknown_tokens=meta["unknown_tokens"][side],
        with_unknown_tokens=meta["with_unknown_tokens"][side],
        repeated=_repeated(hashes[:, side]),
        in_training=_common(hashes[:, side], training[:, side]),
    )


def _of_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash of both sides."""
    mixed: NDArray[np.uint64] = hashes[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ hashes[:, 1]
    return mixed


def _repeated(hashes: NDArray[np.uint64]) -> int:
    return len(hashes) - len(np.unique(hashes))


def _common(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> int:
    return int(np.isin(hashes, others).sum())


def edges(splits: Iterable[OnDisk], side: int, bins: int) -> NDArray[np.int64]:
    """Limits (bins + 1,) of bins of whole numbers of tokens that hold all but the longest 0.5% of a side's texts."""
    lengths = [examples.column("whole_lengths")[:, side] for examples in splits]
    end = max(int(np.percentile(each, 99.5, method="higher")) + 1 for each in lengths)
    return np.arange(bins + 1, dtype=np.int64) * max(1, -(-end // bins))


def histogram(examples: OnDisk, side: int, limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of a side's texts, before they are cut, fall between the limits; the last bin has longer ones too."""
    lengths = examples.column("whole_lengths")[:, side]
    return np.histogram(np.minimum(lengths, limits[-1] - 1), limits)[0].astype(np.int64)
