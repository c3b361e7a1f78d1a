"""Products of matrices in fp32 by oneDNN beside those that torch takes: `python experiments/speed/fp32_products.py`.

torch's own go through MKL, which has slow code for processors of other makers. The package takes oneDNN's where
`encdec_lightning/kernels/products.py` says so; `ours.py --without products` trains without them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from encdec_lightning.kernels.products import product
from encdec_lightning.training.product_speeds import processor

SHAPES = ((64, 384, 384), (256, 384, 1536), (2900, 384, 384), (2900, 384, 1536), (2900, 1536, 384), (2000, 384, 30522))
"""Rows, inputs and outputs of layers of MiniLM's size: in generation, in training, and of the LM head."""


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
            other = speed(lambda left=left, right=right: product(left, right), count)
            apart = (left @ right.t() - product(left, right)).abs().max().item()
            table.add_row(f"{rows}, {inputs}, {outputs}", name, f"{plain:.0f}", f"{other:.0f}", f"{apart:.0e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
