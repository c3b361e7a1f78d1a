"""The LM head and its loss as one function, on real target tokens, in pieces, without keeping logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from encdec_lightning.kernels.gradients import GradientMemory

PIECE = {"cpu": 1 << 23, "cuda": 1 << 27}  # logits held at a time; on CPU what its cache holds

ROWS = 4096  # of a gradient that is added to another in one call


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    label_smoothing: float = 0.0,
    memory: GradientMemory | None = None,
) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T + bias` against `targets`, () in fp32 or better.

    Shapes: hidden (N, H), weight (V, H), bias (V,), targets (N,). Products run in the dtype of `hidden`, whatever that
    of the weight is; sums are kept in that of the weight. Smoothing e as torch's: (1 - e) of the target's loss, and e
    of the mean over the vocabulary. The gradients are computed on the way, as Liger-Kernel does (Hsu et al. 2024,
    section 3.2). The weight's is written where `memory` says.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        loss: Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, label_smoothing, memory or GradientMemory()
        )
    return loss


class LinearCrossEntropy(torch.autograd.Function):
    """See `linear_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float,
        memory: GradientMemory,
    ) -> Tensor:
        """The loss; its gradients wait in `ctx`."""
        dtype, vocabulary = hidden.dtype, weight.shape[0]
        precise = torch.promote_types(dtype, torch.float32)
        low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        learns_hidden, learns_weight, learns_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if learns_hidden else None
        of_weight = memory.take(weight) if learns_weight else None
        of_bias = torch.zeros_like(bias) if bias is not None and learns_bias else None
        total = torch.zeros((), dtype=precise, device=hidden.device)
        room = PIECE.get(hidden.device.type, PIECE["cuda"])
        pieces = max(1, math.ceil(len(hidden) * vocabulary / room))
        written = [None] * pieces if of_hidden is None else of_hidden.tensor_split(pieces)
        parts = hidden.tensor_split(pieces)
        for index, (part, target, out) in enumerate(zip(parts, targets.tensor_split(pieces), written, strict=True)):
            logits = functional.linear(part, low_weight, low_bias)
            gradient = torch.softmax(logits, dim=-1)  # the probabilities, for now
            total += _smooth_losses(logits, gradient, target, label_smoothing).sum()
            del logits
            if label_smoothing:
                gradient.sub_(label_smoothing / vocabulary)
            gradient[torch.arange(len(target), device=target.device), target] -= 1 - label_smoothing
            if out is not None:
                torch.mm(gradient, low_weight, out=out)
            if of_weight is not None:
                _put(gradient.t() @ part, of_weight, add=index > 0)
            if of_bias is not None:
                of_bias += gradient.sum(0)
        ctx.gradients, ctx.weight, ctx.memory = (of_hidden, of_weight, of_bias), weight, memory
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What `forward` computed, times the gradient of the loss; not kept, so that it becomes `.grad` uncopied."""
        gradients = ctx.gradients
        del ctx.gradients
        if gradients[1] is not None:
            ctx.memory.announce(ctx.weight, gradients[1])
        return *(None if each is None else each.mul_(gradient.to(each.dtype)) for each in gradients), None, None, None


def _put(part: Tensor, total: Tensor, add: bool) -> None:
    """Write (V, H) to `total` or add it, some rows at a time: torch casts what it adds, all of it, in fresh memory."""
    if not add:
        total.copy_(part)
    else:
        for rows, more in zip(total.split(ROWS), part.split(ROWS), strict=True):
            rows.add_(more)


def _smooth_losses(logits: Tensor, probabilities: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """The losses of (N, V) logits in fp32 or better, (N,).

    From the targets' probabilities, since the sum of exponentials in bf16 costs as much again; where one is smaller
    than its dtype's numbers, from the logits.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    losses = -probabilities.gather(1, targets[:, None])[:, 0].to(precise).log()
    chosen = logits.gather(1, targets[:, None])[:, 0].to(precise)
    if logits.device.type == "cpu":
        (unlikely,) = losses.isinf().nonzero(as_tuple=True)
        losses[unlikely] = logits[unlikely].to(precise).logsumexp(-1) - chosen[unlikely]
    else:  # asking which are unlikely would wait for the GPU
        losses = logits.to(precise).logsumexp(-1) - chosen
    if label_smoothing:  # the mean loss over the vocabulary is this loss + this logit - the mean logit
        losses += label_smoothing * (chosen - logits.mean(-1, dtype=precise))
    return losses
