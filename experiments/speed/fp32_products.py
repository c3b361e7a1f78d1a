"""Products of matrices in fp32 by oneDNN beside those that torch takes: `python experiments/speed/fp32_products.py`.

torch's own go through MKL, which has slow code for processors of other makers. `ours.py --onednn` trains with linear
layers by oneDNN. Nothing in the package does so yet.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from encdec_lightning.training.product_speeds import processor

SHAPES = ((64, 384, 384), (256, 384, 1536), (2900, 384, 384), (2900, 384, 1536), (2900, 1536, 384), (2000, 384, 30522))
"""Rows, inputs and outputs of layers of MiniLM's size: in generation, in training, and of the LM head."""


def onednn(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, K), (M, K), (M,) -> (N, M), as `functional.linear`."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
    return made


class OneDNNLinear(torch.autograd.Function):
    """A linear layer whose three products oneDNN takes."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., K), (M, K), (M,) -> (..., M)."""
        ctx.save_for_backward(given, weight)
        ctx.has_bias = bias is not None
        return onednn(given.flatten(0, -2), weight, bias).unflatten(0, given.shape[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of all three."""
        given, weight = ctx.saved_tensors
        rows, inputs = gradient.flatten(0, -2), given.flatten(0, -2)
        of_given = onednn(rows, weight.t()).view_as(given) if ctx.needs_input_grad[0] else None
        of_weight = onednn(rows.t(), inputs.t()) if ctx.needs_input_grad[1] else None
        return of_given, of_weight, rows.sum(0) if ctx.has_bias else None


def use_onednn() -> None:
    """From now on `functional.linear`, and so `nn.Linear`, takes products in fp32 by oneDNN."""
    theirs = functional.linear

    def linear(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if given.dtype != torch.float32 or weight.dtype != torch.float32 or not given.numel():
            return theirs(given, weight, bias)
        return OneDNNLinear.apply(given, weight, bias)

    functional.linear = linear


def speed(work: Callable[[], Tensor], operations: int) -> float:
    """GFLOP/s, the median of 15 calls."""
    work()
    seconds = []
    for _ in range(15):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return operations / statistics.median(seconds) / 1e9


@torch.no_grad()
def main() -> None:
    table = Table("rows, inputs, outputs", "product", title=f"GFLOP/s in fp32, {processor()}")
    for column in ("torch's own", "oneDNN", "largest difference"):
        table.add_column(column, justify="right")
    for rows, inputs, outputs in SHAPES:
        given, weight, gradient = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        products = {
            "layer": (given, weight),
            "gradient of its input": (gradient, weight.t()),
            "gradient of its weight": (gradient.t(), given.t()),
        }
        for name, (left, right) in products.items():
            count = 2 * rows * inputs * outputs
            plain = speed(lambda left=left, right=right: left @ right.t(), count)
            other = speed(lambda left=left, right=right: onednn(left, right), count)
            apart = (left @ right.t() - onednn(left, right)).abs().max().item()
            table.add_row(f"{rows}, {inputs}, {outputs}", name, f"{plain:.0f}", f"{other:.0f}", f"{apart:.0e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
