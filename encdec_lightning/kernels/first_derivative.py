"""A backward pass that has no derivative of its own says so, where torch's `once_differentiable` may stay silent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Backward = Callable[..., Any]


def first_derivative_only(backward: Backward) -> Backward:
    """Make the backward pass of a `torch.autograd.Function` refuse `create_graph=True`.

    torch's own decorator refuses only where the gradient that comes in has a history. That of a loss has none, and what
    is derived from the result would be wrong without a word.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "encdec_lightning's fast kernels have no second derivative: compute this gradient without "
                "create_graph=True, or run the model with transformers' own attention and loss."
            )
        return backward(ctx, *gradients)

    return checked
