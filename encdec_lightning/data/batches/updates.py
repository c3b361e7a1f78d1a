"""Updates of a fixed number of examples, whatever the number of devices: the papers' batch sizes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.data.batches.plan import SOURCE_BIN, Indices, Lengths, Plan, binned


class UpdatePlanner:
    """Plans epochs whose updates hold `examples` examples each, the last one the rest.

    The examples, sorted by length, are cut into strata, and each stratum into cells, one for each update: an update
    takes one cell from every stratum. Thus a micro-batch, which is a cell, holds examples of nearly one length, every
    update sees the whole range of lengths, and all need the same number of micro-batches, in every epoch. Which cell
    goes to which update, and which of the examples of equal length go into a cell, is drawn anew for each epoch.
    """

    def __init__(self, lengths: Lengths, batch_tokens: int, examples: int, seed: int, world_size: int) -> None:
        """`lengths` is (N, 2): tokens of source and target; micro-batches hold at most `batch_tokens` padded ones."""
        self._lengths, self._seed, self._world_size = lengths, seed, world_size
        self._keys = _keys(binned(lengths))
        profile = binned(lengths[np.argsort(self._keys, kind="stable")])
        count = len(lengths)
        self._full, rest = divmod(count, examples)
        last = (np.arange(rest) * 2 + 1) * count // (2 * max(rest, 1))  # evenly over all lengths
        self._last: NDArray[np.int64] = last
        self._others = np.setdiff1d(np.arange(count), last, assume_unique=True)
        parts = [(profile[self._others], self._full, examples)] if self._full else []
        parts += [(profile[last], 1, rest)] if rest else []
        fewest = max(len(_strata(*part, batch_tokens)) for part in parts)
        self.micro_batches = math.ceil(fewest / world_size)
        """Micro-batches of an update on each rank."""
        self._cells = [_balanced(*part, batch_tokens, self.micro_batches * world_size) for part in parts]

    def plan(self, epoch: int) -> Plan:
        """The updates of an epoch."""
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        order = order[np.argsort(self._keys[order], kind="stable")]
        places = self.micro_batches * self._world_size
        slices = np.zeros((self._full + bool(len(self._last)), places, 2), dtype=np.int64)
        cells = iter(self._cells)
        if self._full:
            end = len(self._others)
            for place, size in enumerate(next(cells)):
                begin = end - size * self._full
                starts = begin + size * generator.permutation(self._full)
                slices[: self._full, place] = np.stack([starts, starts + size], axis=1)
                end = begin
        if len(self._last):
            ends = len(order) - np.cumsum([0, *next(cells)])
            slices[-1, : len(ends) - 1] = np.stack([ends[1:], ends[:-1]], axis=1)
        chosen: Indices = np.concatenate([order[self._others], order[self._last]])
        return Plan(self._lengths, chosen, slices.reshape(len(slices), -1, self._world_size, 2))


def examples_for(target_tokens: int, lengths: Lengths) -> int:
    """The number of examples that have so many target tokens on average, at least 1."""
    return max(1, round(target_tokens / float(lengths[:, 1].mean())))


def _keys(lengths: Lengths) -> NDArray[np.int64]:
    """What examples are sorted by: all tokens, then those of the source."""
    total: NDArray[np.int64] = lengths.sum(axis=1, dtype=np.int64)
    return total * (int(lengths[:, 0].max(initial=0)) // SOURCE_BIN + 1) + lengths[:, 0] // SOURCE_BIN


def _strata(profile: Lengths, cells: int, examples: int, batch_tokens: int) -> list[int]:
    """The sizes of each stratum's cells, the longest's first, as large as the budget lets them be.

    They sum to `examples`. `profile` (cells x examples, 2) are sorted lengths. A cell of one example always passes.
    """
    sizes, left = [], examples
    while left:
        size = min(left, max(1, batch_tokens // int(profile[left * cells - 1].sum())))
        while size > 1 and (widest := _widest(profile, cells, left, size)) * size > batch_tokens:
            size = max(1, min(size - 1, batch_tokens // widest))
        sizes.append(size)
        left -= size
    return sizes


def _widest(profile: Lengths, cells: int, left: int, size: int) -> int:
    """Padded tokens of an example in the widest of the cells of `size`, when `left` examples an update are left."""
    window = profile[(left - size) * cells : left * cells].reshape(cells, size, 2)
    return int(window.max(axis=1).sum(axis=1).max())


def _balanced(profile: Lengths, cells: int, examples: int, batch_tokens: int, places: int) -> list[int]:
    """Strata like `_strata`, but of the least budget that does with `places` of them, then split up to that number."""
    low, high = 1, batch_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_strata(profile, cells, examples, middle)) <= places:
            high = middle
        else:
            low = middle + 1
    sizes = _strata(profile, cells, examples, high)
    while len(sizes) < places:
        for number in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
            size, left = sizes[number], examples - sum(sizes[:number])
            halves = [size - size // 2, size // 2]
            lefts = [left, left - halves[0]]
            if size > 1 and all(
                half * _widest(profile, cells, start, half) <= batch_tokens
                for half, start in zip(halves, lefts, strict=True)
            ):
                sizes[number : number + 1] = halves
                break
        else:
            return sizes
    return sizes
