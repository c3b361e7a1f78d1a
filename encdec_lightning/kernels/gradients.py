"""Gradients of large weights in the memory that the last step's gradients had.

On CPU a large allocation is fresh memory from the system, page by page, which takes longer than to write there: 47 MB
are 13 ms in fresh memory and 2 ms in used (two cores of a Zen 4).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMALLEST = 1 << 16  # numbers; fewer are the allocator's own to keep


class GradientMemory:
    """Hands the memory of gradients that nobody needs any more to those that come."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Tensor]] = {}
        self._announced: dict[int, weakref.ref[Tensor]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one that was pickled, is of other weights and starts empty."""
        return GradientMemory, ()

    def keep(self, weights: Iterable[nn.Parameter]) -> None:
        """Remember the gradients that weights have now, before a forward pass; they may still be needed.

        Only of those that have asked for memory: nobody would take that of others, and it would be held in vain.
        """
        for weight in weights:
            if weight.grad is not None and id(weight) in self._kept:
                before = [each for each in self._kept[id(weight)] if each is not weight.grad]
                self._kept[id(weight)] = [*before[-1:], weight.grad]

    def take(self, weight: Tensor) -> Tensor:
        """Memory of the shape, dtype and device of `weight`, with any numbers in it, for the caller alone."""
        kept = self._kept.setdefault(id(weight), [])
        for index in range(len(kept)):
            if kept[index] is weight.grad or not _is_like(kept[index], weight):
                continue
            if not _is_shared(sys.getrefcount(kept[index]), kept[index]):
                return kept.pop(index)
        return torch.empty_like(weight, memory_format=torch.contiguous_format)

    def announce(self, weight: Tensor, gradient: Tensor) -> None:
        """Tell of a part of the gradient of `weight` that a backward pass is about to return to autograd."""
        self._announced[id(weight)] = weakref.ref(gradient)

    def announced(self, weight: Tensor) -> Tensor | None:
        """That part, while autograd waits for others and has nothing but it: what is added to it arrives.

        Once autograd has made a sum or a `.grad` of it, it is gone, or only Python has it.
        """
        known = self._announced.get(id(weight))
        gradient = None if known is None else known()
        return gradient if gradient is not None and gradient._use_count() > 1 else None  # type: ignore[attr-defined]


def _is_shared(references: int, tensor: Tensor) -> bool:
    """Whether more than one place, which `sys.getrefcount` counts as two, has the tensor, or anyone a view of it."""
    storage = tensor.untyped_storage()
    return references > 2 or torch._C._storage_Use_Count(storage._cdata) > 2  # the tensor and this variable


def _is_like(kept: Tensor, weight: Tensor) -> bool:
    same = (kept.shape, kept.dtype, kept.device) == (weight.shape, weight.dtype, weight.device)
    return same and kept.is_contiguous()


class Cast(torch.autograd.Function):
    """A weight in another dtype; its gradient comes back in the weight's own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype, memory: GradientMemory) -> Tensor:
        """Of any shape."""
        ctx.weight, ctx.memory = weight, memory
        return weight.to(dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """In memory used before."""
        return ctx.memory.take(ctx.weight).copy_(gradient), None, None


class Lookup(torch.autograd.Function):
    """Rows of a table, whose gradient is added to another part of the table's, or written in memory used before."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None, memory: GradientMemory) -> Tensor:
        """(V, H), (...) -> (..., H)."""
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx, ctx.memory = weight, padding_idx, memory
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """None of it reaches the row of padding."""
        ids = ctx.saved_tensors[0].flatten()
        rows = gradient.reshape(len(ids), -1)
        if ctx.padding_idx is not None:
            rows = rows.masked_fill((ids == ctx.padding_idx)[:, None], 0)
        waiting = ctx.memory.announced(ctx.weight)
        if waiting is not None:
            waiting.index_add_(0, ids, rows)
            return None, None, None, None
        made = ctx.memory.take(ctx.weight).zero_().index_add_(0, ids, rows)
        ctx.memory.announce(ctx.weight, made)
        return made, None, None, None


def is_plain_table(module: nn.Module) -> bool:
    """Whether a module is a large embedding that `Lookup` computes."""
    return (
        type(module) is nn.Embedding
        and module.max_norm is None
        and not (module.sparse or module.scale_grad_by_freq)
        and module.weight.numel() >= SMALLEST
        and module.weight.requires_grad
    )
