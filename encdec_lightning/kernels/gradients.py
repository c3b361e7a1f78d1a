"""Gradients of large weights in memory that earlier gradients had.

On CPU a large allocation is fresh memory from the system, page by page, which takes longer than to write there: 47 MB
are 13 ms in fresh memory and 2 ms in used (two cores of a Zen 4).
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encdec_lightning.kernels.first_derivative import first_derivative_only

SMALLEST = 1 << 16  # numbers; fewer are the allocator's own to keep

Block = np.ndarray[tuple[int], np.dtype[np.uint8]]


class GradientMemory:
    """An allocator for gradients on CPU: a block is free again when torch frees the storage of the tensor in it.

    That is when nobody has the tensor, a view of it or its storage any more, in Python or in C++. Nothing is counted
    or guessed here: torch itself then lets go of the object that lent the memory.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Block]] = {}
        self._askers: dict[int, set[int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one that was pickled, is of other weights and starts empty."""
        return GradientMemory, ()

    def take(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous tensor like `weight`, of this dtype if one is given, with any numbers, the caller's alone."""
        dtype = dtype or weight.dtype
        if weight.device.type != "cpu" or type(weight) not in (Tensor, nn.Parameter) or weight.numel() < SMALLEST:
            return torch.empty_like(weight, dtype=dtype, memory_format=torch.contiguous_format)
        size = math.prod(weight.shape) * dtype.itemsize
        self._askers.setdefault(size, set()).add(id(weight))
        try:
            block = self._free.setdefault(size, []).pop()
        except IndexError:
            block = torch.empty(size, dtype=torch.uint8).numpy()  # torch aligns it
        lent = block[:]
        weakref.finalize(lent, self._give_back, block).atexit = False
        return torch.frombuffer(lent, dtype=dtype).view(weight.shape).data  # no view of another tensor

    def _give_back(self, block: Block) -> None:
        """Keep a block; of one size no more than the gradients of a step, even if somebody held those of many."""
        free = self._free[len(block)]
        if len(free) <= len(self._askers[len(block)]):
            free.append(block)


class Cast(torch.autograd.Function):
    """A weight in another dtype; its gradient comes back in the weight's own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype, memory: GradientMemory) -> Tensor:
        """Of any shape."""
        ctx.weight, ctx.memory = weight, memory
        return weight.to(dtype, copy=True)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """In memory used before."""
        return ctx.memory.take(ctx.weight).copy_(gradient), None, None


class Lookup(torch.autograd.Function):
    """Rows of a table, whose gradient is written in memory used before."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None, memory: GradientMemory) -> Tensor:
        """(V, H), (...) -> (..., H)."""
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx, ctx.memory = weight, padding_idx, memory
        return functional.embedding(ids, weight)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """None of it reaches the row of padding."""
        ids = ctx.saved_tensors[0].flatten()
        rows = gradient.reshape(len(ids), -1)
        if ctx.padding_idx is not None:
            rows = rows.masked_fill((ids == ctx.padding_idx)[:, None], 0)
        return ctx.memory.take(ctx.weight).zero_().index_add_(0, ids, rows), None, None, None


def is_plain_table(module: nn.Module) -> bool:
    """Whether a module is a large embedding that `Lookup` computes."""
    return (
        type(module) is nn.Embedding
        and module.max_norm is None
        and not (module.sparse or module.scale_grad_by_freq)
        and module.weight.numel() >= SMALLEST
        and module.weight.requires_grad
    )
