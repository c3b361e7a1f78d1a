"""Dropout's random numbers on CPU, from AES in counter mode.

torch draws them one by one on one core (200 million a second); processors with AES instructions give 5 billion 16-bit
numbers a second. Each call takes its 128-bit key from torch's global generator and nothing else is kept, so seeding and
restoring that generator is seeding and restoring this one.
"""

from __future__ import annotations

import math

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

BLOCK = 1 << 20  # bytes a call to the cipher; stays in the cache
LEVELS = 1 << 16  # probabilities are rounded to a multiple of 1 / LEVELS
_ZEROS = bytes(BLOCK)


def random_bits(count: int) -> Tensor:
    """`count` uniform 16-bit numbers, (count,), int16."""
    key = torch.randint(-(2**63), 2**63 - 1, (2,)).numpy().tobytes()
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    room = torch.empty(count + 8, dtype=torch.int16)  # the cipher wants 15 bytes to spare
    view = memoryview(room.numpy()).cast("B")
    for start in range(0, 2 * count, BLOCK):
        length = min(BLOCK, 2 * count - start)
        cipher.update_into(memoryview(_ZEROS)[:length], view[start : start + length + 15])
    return room[:count]


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
