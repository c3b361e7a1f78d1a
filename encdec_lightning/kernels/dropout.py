"""Dropout on CPU without torch's serial random numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from encdec_lightning.kernels.noise import dropout_noise


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`torch.nn.functional.dropout` in distribution, with other random numbers."""
    if not training or p == 0 or input.device.type != "cpu" or not 0 < p <= 1:
        return functional.dropout(input, p, training, inplace)
    noise = dropout_noise(input.shape, input.dtype, p)
    return input.mul_(noise) if inplace else input * noise


class FastDropout(TorchFunctionMode):
    """A context in which `torch.nn.functional.dropout`, and so `torch.nn.Dropout`, is `dropout` above."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in place of every function of torch."""
        if function is functional.dropout:
            function = dropout
        return function(*args, **(kwargs or {}))
