"""Functions of torch that run on this package's kernels, whoever calls them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from encdec_lightning.kernels.dropout import dropout
from encdec_lightning.kernels.noise import DropoutBits
from encdec_lightning.kernels.products import addmm, adds_biases, linear, onednn_is_faster


def fast_functions(device: torch.device, bits: DropoutBits | None = None) -> AbstractContextManager[Any]:
    """`FastFunctions` on a processor, and nothing elsewhere."""
    return FastFunctions(bits or DropoutBits()) if device.type == "cpu" else nullcontext()


class FastFunctions(TorchFunctionMode):
    """A context in which dropout, linear layers and GPT-2's `Conv1D` are this package's, for one forward pass.

    Torch asks a context at every one of its functions, a microsecond each time: so there is one for all.
    """

    def __init__(self, bits: DropoutBits) -> None:
        super().__init__()
        self._instead: dict[Callable[..., Any], Callable[..., Any]] = {functional.dropout: partial(dropout, bits=bits)}
        if onednn_is_faster() or adds_biases():
            self._instead |= {functional.linear: linear, torch.addmm: addmm}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in place of every function of torch."""
        return self._instead.get(function, function)(*args, **(kwargs or {}))
