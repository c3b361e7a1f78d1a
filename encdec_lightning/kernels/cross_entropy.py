"""The LM head and its loss as one function, on real target tokens, in pieces, without keeping logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from encdec_lightning.kernels.first_derivative import first_derivative_only
from encdec_lightning.kernels.gradients import GradientMemory
from encdec_lightning.kernels.products import linear

PIECE = {"cpu": 1 << 23, "cuda": 1 << 27}  # logits held at a time; on CPU what its cache holds
SIZES = 8  # of pieces between a power of two and the next: oneDNN compiles products for each size, 50 ms with AMX
BLOCKS = 8  # of a piece, in which the gradient is held in fp32

ROWS = 4096  # of a gradient that are computed and cast in one call


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
    of the weight is; probabilities, losses and sums are in fp32 or better. Smoothing e as torch's: (1 - e) of the
    target's loss, and e of the mean over the vocabulary. The gradients are computed on the way, as Liger-Kernel does
    (Hsu et al. 2024, section 3.2). The weight's is written where `memory` says. In fp16, where small probabilities are
    zero, torch computes both, so that a loss scale reaches them.

    It runs on every device. Torch has a function of that name since 2.13: its chunks take no label smoothing, and took
    1.5 to 7.5 times as long on a processor; all logits at once take two thirds of the time there, or a little more than
    ours, and 4 to 13 times the memory (experiments/speed). Beside them on a GPU it has not been measured.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        if hidden.dtype == torch.float16:
            logits = functional.linear(hidden, weight.half(), None if bias is None else bias.half()).float()
            return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="sum")
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
        """The loss; its gradients are saved in `ctx`."""
        dtype, vocabulary = hidden.dtype, weight.shape[0]
        precise = torch.promote_types(dtype, torch.float32)
        low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        learns_hidden, learns_weight, learns_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if learns_hidden else None
        of_weight = memory.take(weight, torch.promote_types(weight.dtype, torch.float32)) if learns_weight else None
        of_bias = torch.zeros_like(bias, dtype=precise) if bias is not None and learns_bias else None
        total = torch.zeros((), dtype=precise, device=hidden.device)
        room = PIECE.get(hidden.device.type, PIECE["cuda"])
        size = _rows_of_a_piece(len(hidden), room // vocabulary, hidden.device)
        for index, (part, target) in enumerate(zip(hidden.split(size), targets.split(size), strict=True)):
            real = len(part)
            if real < size:  # rows that are nobody's, so that products of the same shape come again
                part = torch.cat([part, part.new_zeros(size - real, part.shape[1])])
            logits = linear(part, low_weight, low_bias)
            logits[real:] = 0
            for rows, theirs in zip(logits[:real].tensor_split(BLOCKS), target.tensor_split(BLOCKS), strict=True):
                losses, of_rows = _with_gradient(rows, theirs, label_smoothing)
                total += losses.sum()
                if of_bias is not None:
                    of_bias += of_rows.sum(0)
                rows.copy_(of_rows)  # the logits' gradient where they were
            if of_hidden is not None:
                of_hidden[index * size :][:real] = linear(logits, low_weight.t())[:real]
            if of_weight is not None:
                _put(logits.t(), part, of_weight, add=index > 0)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.weight, ctx.bias, ctx.memory = weight, bias, memory
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """What `forward` computed, times the gradient of the loss, which is not rounded."""
        hidden, weight, bias = ctx.saved_tensors
        of_hidden = of_weight = of_bias = None
        if hidden is not None and ctx.needs_input_grad[0]:
            of_hidden = (hidden.to(gradient.dtype) * gradient).to(hidden.dtype)
        if weight is not None and ctx.needs_input_grad[1]:
            of_weight = ctx.memory.take(ctx.weight)
            for rows, out in zip(weight.split(ROWS), of_weight.split(ROWS), strict=True):
                torch.mul(rows, gradient, out=out)
        if bias is not None and ctx.needs_input_grad[2]:
            of_bias = (bias * gradient).to(ctx.bias.dtype)
        return of_hidden, of_weight, of_bias, None, None, None


def _rows_of_a_piece(count: int, most: int, device: torch.device) -> int:
    """How many of `count` rows are computed at a time: about `most` at most, and on CPU one of few sizes."""
    size = math.ceil(count / max(1, math.ceil(count / max(1, most)))) or 1
    if device.type != "cpu":
        return size
    step = max(1, (1 << (size.bit_length() - 1)) // SIZES)
    return math.ceil(size / step) * step


def _with_gradient(logits: Tensor, targets: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """The losses of (N, V) logits, (N,), and their gradient, (N, V), both in fp32 or better.

    A probability near one is all but the rest, and says little of it: the rest of its row is summed instead. So a
    target's loss and gradient are as exact as the sum, however sure the model is of it.
    """
    column, vocabulary, precise = targets[:, None], logits.shape[1], torch.promote_types(logits.dtype, torch.float32)
    probabilities = torch.softmax(logits, dim=-1, dtype=precise)
    of_target = probabilities.gather(1, column)[:, 0]
    rest = probabilities.scatter_(1, column, 0).sum(-1)
    losses = torch.where(rest < 0.5, -torch.log1p(-rest), -of_target.log())
    chosen = logits.gather(1, column)[:, 0].to(precise)
    unlikely = of_target < torch.finfo(precise).tiny
    if logits.device.type != "cpu" or bool(unlikely.any()):  # asking would wait for a GPU
        losses = torch.where(unlikely, logits.to(precise).logsumexp(-1) - chosen, losses)
    if label_smoothing:  # the mean loss over the vocabulary is this loss + this logit - the mean logit
        losses += label_smoothing * (chosen - logits.mean(-1, dtype=precise))
        probabilities.sub_(label_smoothing / vocabulary)
    rest = label_smoothing * (1 - 1 / vocabulary) - rest
    return losses, probabilities.scatter_(1, column, rest[:, None])


def _put(left: Tensor, right: Tensor, total: Tensor, add: bool) -> None:
    """Write the product (V, N) x (N, H) to `total`, or add it.

    In another dtype some rows at a time on CPU: all of the product would be fresh memory, which costs more than it.
    """
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=int(add), out=total)
        return
    count = ROWS if total.device.type == "cpu" else len(total)
    for out, rows in zip(total.split(count), left.split(count), strict=True):
        part = rows @ right
        if add:
            out.add_(part)
        else:
            out.copy_(part)
