"""Which examples make up each optimizer step: a pure function of lengths, budget, seed, epoch and world size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import UserError

SOURCE_BIN, TARGET_BIN = 8, 4  # tokens: examples whose lengths fall in one bin are interchangeable in the shuffle

MicroBatch = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step: `micro_batches[i][rank]` holds the examples of the i-th micro-batch on that rank."""

    micro_batches: tuple[tuple[MicroBatch, ...], ...]
    target_tokens: int
    """Target tokens of all its micro-batches on all ranks: what the summed loss is divided by."""


def training_plan(
    lengths: NDArray[np.int64], batch_tokens: int, accumulate: int, seed: int, epoch: int, world_size: int
) -> list[Update]:
    """The updates of one epoch, each example in it exactly once.

    `lengths` is (N, 2): tokens of source and target. Micro-batches hold at most `batch_tokens` padded tokens, examples
    of similar length together; which ones, and in what order the batches come, changes with the epoch, their number
    does not. Batches are split until they fill whole updates. Raises `UserError` if the examples are too few for that.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    binned = _binned(lengths)[order]
    batches = [tuple(order[batch].tolist()) for batch in _cut(binned, np.lexsort(binned.T[::-1]), batch_tokens)]
    batches = _fill(batches, accumulate * world_size)
    shuffled = [batches[index] for index in generator.permutation(len(batches))]
    return _updates(shuffled, lengths, accumulate, world_size)


def evaluation_plan(lengths: NDArray[np.int64], batch_tokens: int, world_size: int) -> list[Update]:
    """Batches sorted by length, longest first, each example once, the same number on every rank."""
    order = np.lexsort(_binned(lengths).T[::-1])[::-1]
    batches = [tuple(batch.tolist()) for batch in _cut(lengths, order, batch_tokens)]
    return _updates(_fill(batches, world_size), lengths, 1, world_size)


def _binned(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths rounded up to whole bins: since every epoch sorts the same values, it cuts at the same places."""
    bins = np.array([SOURCE_BIN, TARGET_BIN])
    rounded: NDArray[np.int64] = -(-lengths // bins) * bins
    return rounded


def _cut(lengths: NDArray[np.int64], order: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut `order` into runs whose padded size stays within the budget; a single example always passes."""
    batches, start, longest = [], 0, np.zeros(2, dtype=np.int64)
    for end, index in enumerate(order):
        grown = np.maximum(longest, lengths[index])
        if end > start and int(grown.sum()) * (end - start + 1) > batch_tokens:
            batches.append(order[start:end])
            start, grown = end, lengths[index]
        longest = grown
    if len(order):
        batches.append(order[start:])
    return batches


def _fill(batches: list[MicroBatch], multiple: int) -> list[MicroBatch]:
    """Halve the batches with most examples until their number is a multiple."""
    batches = list(batches)
    while len(batches) % multiple:
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        batch = batches[largest]
        if len(batch) == 1:
            expected = f"{sum(map(len, batches))} examples cannot fill updates of {multiple} batches, use fewer"
            raise UserError("data.accumulate x devices", multiple, expected)
        middle = len(batch) // 2
        batches[largest : largest + 1] = [batch[:middle], batch[middle:]]
    return batches


def _updates(batches: list[MicroBatch], lengths: NDArray[np.int64], accumulate: int, world_size: int) -> list[Update]:
    size = accumulate * world_size
    updates = []
    for start in range(0, len(batches), size):
        members = batches[start : start + size]
        tokens = sum(int(lengths[list(batch), 1].sum()) for batch in members)
        rows = tuple(tuple(members[i : i + world_size]) for i in range(0, size, world_size))
        updates.append(Update(rows, tokens))
    return updates
