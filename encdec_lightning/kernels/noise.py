"""Dropout's random numbers on CPU, sixteen bits an element.

torch draws them one by one (130 million a second on a Zen 4 core); numpy's SFC64 gives 2.4 billion. Each call seeds it
from torch's global generator and nothing else is kept, so seeding and restoring that generator is seeding and restoring
this one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LEVELS = 1 << 16  # probabilities are rounded to a multiple of 1 / LEVELS


def random_bits(count: int) -> Tensor:
    """`count` uniform 16-bit numbers, (count,), int16."""
    seed = torch.randint(-(2**63), 2**63 - 1, (2,)).numpy().view(np.uint64)
    words: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(words.view(np.int16))[:count]


def dropout_noise(shape: torch.Size | tuple[int, ...], dtype: torch.dtype, p: float) -> Tensor:
    """What dropout multiplies by: 0 with probability `p`, else 1 / (1 - p), as torch rounds it to `dtype`; `shape`."""
    kept = round((1 - p) * LEVELS)
    if kept in (0, LEVELS):
        return torch.full(shape, float(kept > 0), dtype=dtype)
    bits = random_bits(math.prod(shape)).lt_(kept - LEVELS // 2)  # 0 or 1
    scale = torch.tensor(1 / (1 - p), dtype=dtype)
    if dtype.itemsize == 2:  # the number's own bits, or none
        return bits.mul_(scale.view(torch.int16)).view(dtype).view(shape)
    return bits.to(dtype).mul_(scale).view(shape)
