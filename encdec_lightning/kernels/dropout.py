"""Dropout on CPU without torch's serial random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from encdec_lightning.kernels.first_derivative import first_derivative_only
from encdec_lightning.kernels.noise import DropoutBits, dropout_noise, passing_bits


def dropout(
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    bits: DropoutBits | None = None,
) -> Tensor:
    """`torch.nn.functional.dropout` in distribution, with other random numbers: of `bits`, or drawn now."""
    if not training or p == 0 or input.device.type != "cpu" or not 0 < p <= 1:
        return functional.dropout(input, p, training, inplace)
    output: Tensor = Dropout.apply(input, p, bits)  # type: ignore[no-untyped-call]
    return input.copy_(output) if inplace else output


class Dropout(torch.autograd.Function):
    """Keeps a bit for each element: whether it passed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float, bits: DropoutBits | None) -> Tensor:
        """Of any shape."""
        passing = passing_bits(values.numel(), p, bits)
        ctx.save_for_backward(passing)
        ctx.p = p
        made = dropout_noise(passing, p, values.shape, values.dtype).mul_(values)
        return made.data  # no view of another tensor, which could not be written to in place

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The same elements pass."""
        (passing,) = ctx.saved_tensors
        return dropout_noise(passing, ctx.p, gradient.shape, gradient.dtype).mul_(gradient), None, None
