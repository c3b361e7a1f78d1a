"""Which examples make up each optimizer step: a pure function of lengths, budget, seed, epoch and world size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import UserError

SOURCE_BIN, TARGET_BIN = 8, 4  # tokens: examples whose lengths fall in one bin are interchangeable in the shuffle

Lengths = NDArray[np.integer[Any]]
Indices = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step: `micro_batches[i][rank]` holds the examples of the i-th micro-batch on that rank.

    A micro-batch may be empty where there are fewer examples than places.
    """

    micro_batches: tuple[tuple[Indices, ...], ...]
    target_tokens: int
    """Target tokens of all its micro-batches on all ranks: what the summed loss is divided by."""


class Plan:
    """The U updates of one epoch; each is K micro-batches on each of W ranks, each of those a slice of `order`."""

    def __init__(self, lengths: Lengths, order: Indices, slices: NDArray[np.int64]) -> None:
        """`order` (N,) holds every example once, `slices` (U, K, W, 2) begin and end of each micro-batch in it."""
        self._order, self._slices = order, slices
        sums = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(lengths[order, 1], out=sums[1:])
        self.target_tokens: NDArray[np.int64] = (sums[slices[..., 1]] - sums[slices[..., 0]]).sum(axis=(1, 2))
        """(U,): target tokens of each update."""

    def of(self, members: Indices, lengths: Lengths) -> Plan:
        """The same plan with example `members[i]` in the place of i; `lengths` (M, 2) are those of all members."""
        return Plan(lengths, members[self._order], self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, number: int) -> Update:
        rows = self._slices[number]
        batches = tuple(tuple(self._order[begin:end] for begin, end in row) for row in rows)
        return Update(batches, int(self.target_tokens[number]))

    def __iter__(self) -> Iterator[Update]:
        return (self[number] for number in range(len(self)))

    @property
    def batches(self) -> int:
        """Micro-batches on each rank in the whole epoch."""
        return len(self._slices) * int(self._slices.shape[1])

    def batch(self, position: int, rank: int) -> tuple[Indices, int]:
        """The examples of a rank's micro-batch, by its position in the epoch, and its update's target tokens."""
        number, row = divmod(position, self._slices.shape[1])
        begin, end = self._slices[number, row, rank]
        return self._order[begin:end], int(self.target_tokens[number])


def training_plan(lengths: Lengths, batch_tokens: int, accumulate: int, seed: int, epoch: int, world_size: int) -> Plan:
    """Updates of `accumulate` full micro-batches on each rank, each example of an epoch exactly once.

    `lengths` is (N, 2): tokens of source and target. Micro-batches hold at most `batch_tokens` padded tokens, examples
    of similar length together; which ones, and in what order the batches come, changes with the epoch, their number
    does not. Batches are split until they fill whole updates. Raises `UserError` if the examples are too few for that.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    order = order[_by_length(binned(lengths)[order])]
    batches = _fill(_cut(binned(lengths[order]), batch_tokens), accumulate * world_size)
    if len(batches) % (accumulate * world_size):
        expected = f"{len(lengths)} examples cannot fill updates of {accumulate * world_size} batches, use fewer"
        raise UserError("data.accumulate x devices", accumulate * world_size, expected)
    slices = np.array(batches, dtype=np.int64)[generator.permutation(len(batches))]
    return Plan(lengths, order, slices.reshape(-1, accumulate, world_size, 2))


def evaluation_plan(lengths: Lengths, batch_tokens: int, world_size: int) -> Plan:
    """Batches of texts of one length, the longest first, each example once, the same number on every rank.

    The others follow so that the first few of them have texts of all lengths, for a Trainer with a limit of batches.
    """
    order = _by_length(binned(lengths))[::-1]
    batches = _fill(_cut(binned(lengths[order]), batch_tokens), world_size)
    batches += [(len(order), len(order))] * (-len(batches) % world_size)
    slices = np.array(batches, dtype=np.int64).reshape(-1, 1, world_size, 2)
    return Plan(lengths, order, slices[_spread(len(slices))])


def _spread(count: int) -> Indices:
    """The numbers below a count, each far from all before it: 0, 4, 2, 6, 1, 5, 3, 7 (van der Corput)."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return np.array([number for number in reversed_bits if number < count], dtype=np.int64)


def binned(lengths: Lengths) -> Lengths:
    """Lengths rounded up to whole bins: since every epoch sorts the same values, it cuts at the same places."""
    bins = np.array([SOURCE_BIN, TARGET_BIN], dtype=lengths.dtype)
    rounded: Lengths = -(-lengths // bins) * bins
    return rounded


def _by_length(lengths: Lengths) -> Indices:
    """The order by source, then target, equal ones as they stand."""
    source, target = lengths.T.astype(np.int64)
    key = source // SOURCE_BIN * (target.max(initial=0) // TARGET_BIN + 1) + target // TARGET_BIN
    return np.argsort(key.astype(np.uint16) if key.max(initial=0) < 2**16 else key, kind="stable")


def _cut(lengths: Lengths, batch_tokens: int) -> list[tuple[int, int]]:
    """Cut sorted lengths (N, 2) into slices whose padded size stays within the budget; one example always passes."""
    changes = np.flatnonzero((lengths[1:] != lengths[:-1]).any(axis=1)) + 1
    ends = [*changes.tolist(), len(lengths)] if len(lengths) else []
    batches, start, position = [], 0, 0
    longest_source = longest_target = 0
    for end in ends:  # a run of equal lengths
        source, target = lengths[end - 1].tolist()
        while position < end:
            grown = max(longest_source, source), max(longest_target, target)
            room = max(1, batch_tokens // sum(grown)) - (position - start)
            if room <= 0:
                batches.append((start, position))
                start, longest_source, longest_target = position, 0, 0
                continue
            longest_source, longest_target = grown
            position = min(end, position + room)
    if len(lengths):
        batches.append((start, len(lengths)))
    return batches


def _fill(batches: list[tuple[int, int]], multiple: int) -> list[tuple[int, int]]:
    """Halve the batches with most examples until their number is a multiple, as far as there are examples for that."""
    batches = list(batches)
    while len(batches) % multiple:
        largest = max(range(len(batches)), key=lambda index: batches[index][1] - batches[index][0])
        begin, end = batches[largest]
        if end - begin == 1:
            break
        middle = begin + (end - begin) // 2
        batches[largest : largest + 1] = [(begin, middle), (middle, end)]
    return batches
