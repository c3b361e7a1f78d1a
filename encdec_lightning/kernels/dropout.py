"""Dropout on CPU without torch's serial random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from encdec_lightning.kernels.first_derivative import first_derivative_only
from encdec_lightning.kernels.noise import draw_key, dropout_noise


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`torch.nn.functional.dropout` in distribution, with other random numbers."""
    if not training or p == 0 or input.device.type != "cpu" or not 0 < p <= 1:
        return functional.dropout(input, p, training, inplace)
    output: Tensor = Dropout.apply(input, p)  # type: ignore[no-untyped-call]
    return input.copy_(output) if inplace else output


class Dropout(torch.autograd.Function):
    """Keeps the key of its noise, not the noise."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:
        """Of any shape."""
        key = draw_key()
        ctx.save_for_backward(key)
        ctx.p = p
        return dropout_noise(values.shape, values.dtype, p, key).mul_(values)

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The same elements pass."""
        return dropout_noise(gradient.shape, gradient.dtype, ctx.p, *ctx.saved_tensors).mul_(gradient), None


class FastDropout(TorchFunctionMode):
    """A context in which `torch.nn.functional.dropout`, and so `torch.nn.Dropout`, is `dropout` above."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in place of every function of torch."""
        if function is functional.dropout:
            function = dropout
        return function(*args, **(kwargs or {}))
