"""No kernel has a second derivative, and each says so, whatever the gradient that comes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from encdec_lightning.kernels.attention import attention
from encdec_lightning.kernels.cross_entropy import linear_cross_entropy
from encdec_lightning.kernels.dropout import dropout
from encdec_lightning.kernels.gradients import Cast, GradientMemory, Lookup
from encdec_lightning.kernels.packing import Packing, packed


def kept_scores(values: Tensor) -> Tensor:
    states = values.view(1, 2, 8, 4)
    return attention(nn.Module(), states, states, states, None, is_causal=True)[0]


def packed_scores(values: Tensor) -> Tensor:
    states = values.view(1, 2, 8, 4)
    with packed(Packing((3, 5), (1, 1))):
        return attention(nn.Module(), states, states, states, None, is_causal=False)[0]


def loss(values: Tensor) -> Tensor:
    return linear_cross_entropy(values, torch.ones(9, 4), None, torch.arange(16) % 9)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "attention": kept_scores,
    "packed attention": packed_scores,
    "loss": loss,
    "dropout": lambda values: dropout(values, 0.5),
    "cast": lambda values: Cast.apply(values, torch.bfloat16, GradientMemory()),
    "rows": lambda values: Lookup.apply(values, torch.tensor([0, 3, 3]), None, GradientMemory()),
}


@pytest.mark.parametrize("summed", [torch.Tensor.sum, lambda output: output.square().sum()], ids=["sum", "squares"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_second_derivative_is_refused(kernel: str, summed: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    values = torch.randn(16, 4, requires_grad=True)
    total = summed(KERNELS[kernel](values).float())
    with pytest.raises(RuntimeError, match="fast kernels have no second derivative: compute this gradient without"):
        torch.autograd.grad(total, values, create_graph=True, retain_graph=True)
    (gradient,) = torch.autograd.grad(total, values)
    assert gradient.isfinite().all() and not gradient.requires_grad
