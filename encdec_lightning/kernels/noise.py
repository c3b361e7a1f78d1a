"""Dropout's random numbers on CPU, sixteen bits an element, a function of a key.

torch draws them one by one (130 million a second on a Zen 4 core); numpy's SFC64 gives 2.3 billion on each core. A
backward pass draws the numbers of a forward pass again from their key: less memory than keeping them. Keys come from
torch's global generator and nothing else is kept, so seeding and restoring that one is seeding and restoring this.
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


def draw_key() -> Tensor:
    """A key, (2,) int64, from torch's global generator."""
    return torch.randint(-(2**63), 2**63 - 1, (2,))


def random_bits(count: int, key: Tensor) -> Tensor:
    """`count` uniform 16-bit numbers, (count,), int16."""
    bits = np.empty(-(-count // 4) * 4, dtype=np.int16)
    words = bits.view(np.uint64)
    seed = key.numpy().view(np.uint64).tolist()
    starts = range(0, len(words), PIECE // 4)

    def fill(start: int) -> None:
        part = words[start : start + PIECE // 4]
        generator = np.random.Generator(np.random.SFC64([*seed, start]))
        part[:] = generator.integers(0, 2**64 - 1, len(part), dtype=np.uint64, endpoint=True)

    if len(starts) > 1:
        list(_threads().map(fill, starts))
    else:
        for start in starts:
            fill(start)
    return torch.from_numpy(bits)[:count]


def dropout_noise(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, p: float, key: Tensor) -> Tensor:
    """What dropout multiplies by: 0 with probability `p`, else 1 / (1 - p), as torch rounds it to `dtype`; `shape`."""
    kept = round((1 - p) * LEVELS)
    if kept in (0, LEVELS):
        return torch.full(shape, float(kept > 0), dtype=dtype)
    bits = random_bits(math.prod(shape), key).lt_(kept - LEVELS // 2)  # 0 or 1
    scale = torch.tensor(1 / (1 - p), dtype=dtype)
    if dtype.itemsize == 2:  # the number's own bits, or none
        return bits.mul_(scale.view(torch.int16)).view(dtype).view(shape)
    return bits.to(dtype).mul_(scale).view(shape)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "dropout")


if hasattr(os, "register_at_fork"):  # a child process has the pool without its threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
