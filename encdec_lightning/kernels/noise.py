"""Dropout's random numbers on CPU, sixteen bits an element, a function of a key.

torch draws them one by one (130 million a second on a Zen 4 core); numpy's SFC64 gives 2.3 billion on each core. A
backward pass needs to know which elements passed: a bit for each is kept, which is a sixteenth of what bf16 takes, and
reading it takes a fraction of the time of drawing again. Keys come from torch's global generator and nothing else is
kept, so seeding and restoring that one is seeding and restoring this.
"""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

LEVELS = 1 << 16  # probabilities are rounded to a multiple of 1 / LEVELS
PIECE = 1 << 20  # numbers of one stream; streams run in parallel
FIRST, MOST = 1 << 16, 1 << 23  # numbers that are drawn at a time: so many at first, then more and more
GROWTH = 4


def draw_key() -> Tensor:
    """A key, (2,) int64, from torch's global generator."""
    return torch.randint(-(2**63), 2**63 - 1, (2,))


class DropoutBits:
    """Which elements dropout lets pass in the forward pass of one batch: drawn many at a time and handed out in turn.

    To begin to draw takes longer than to draw: threads wake up, and generators are seeded.
    """

    def __init__(self) -> None:
        self._left: dict[float, Tensor] = {}
        self._next: dict[float, int] = {}

    def take(self, count: int, p: float) -> Tensor:
        """As `draw_passing`, bits that nobody else is given."""
        left, size = self._left.get(p), -(-count // 8)
        if left is None or len(left) < size:
            block = self._next.get(p, FIRST)
            self._next[p] = min(GROWTH * block, MOST)
            left = draw_passing(max(block, count), p, draw_key())
        self._left[p] = left[size:]
        return left[:size]


def passing_bits(count: int, p: float, bits: DropoutBits | None) -> Tensor:
    """As `draw_passing`, of `bits`, or of a key of their own."""
    return draw_passing(count, p, draw_key()) if bits is None else bits.take(count, p)


def draw_passing(count: int, p: float, key: Tensor) -> Tensor:
    """Which of `count` elements dropout lets pass, each with probability 1 - `p`: a bit each, (ceil(count / 8),) uint8.

    The first element's is the highest bit of the first byte. Bits after the last element's are of no meaning.
    """
    kept = round((1 - p) * LEVELS)
    passing = np.empty(-(-count // 8), dtype=np.uint8)
    if kept in (0, LEVELS):
        passing.fill(255 * (kept > 0))
        return torch.from_numpy(passing)
    seed = key.numpy().view(np.uint64).tolist()

    def fill(start: int) -> None:
        part = passing[start // 8 : (start + PIECE) // 8]
        part[:] = np.packbits(uniform_numbers(8 * len(part), [*seed, start // 4]) < kept - LEVELS // 2)

    starts = range(0, count, PIECE)
    if len(starts) > 1:
        list(_threads().map(fill, starts))
    else:
        for start in starts:
            fill(start)
    return torch.from_numpy(passing)


def uniform_numbers(count: int, seed: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """`count` of them, which is a multiple of four, (count,)."""
    generator = np.random.Generator(np.random.SFC64(seed))
    return generator.integers(0, 2**64 - 1, count // 4, dtype=np.uint64, endpoint=True).view(np.int16)


def dropout_noise(passing: Tensor, p: float, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What dropout multiplies by: 1 / (1 - p), as torch rounds it to `dtype`, where an element passes, else 0; `shape`.

    Where none passes it is 0 everywhere, whatever `p` is.
    """
    bits = torch.from_numpy(np.unpackbits(passing.numpy(), count=math.prod(shape))).view(torch.int8)  # 0 or 1
    scale = torch.tensor(1 / (1 - p) if p < 1 else 0.0, dtype=dtype)
    if dtype.itemsize == 2:  # the number's own bits, or none
        return bits.to(torch.int16).mul_(scale.view(torch.int16)).view(dtype).view(shape)
    return bits.to(dtype).mul_(scale).view(shape)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "dropout")


if hasattr(os, "register_at_fork"):  # a child process has the pool without its threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
