"""How exact is the head's gradient where a model is sure? `python experiments/numerics/cross_entropy.py`.

Errors of the gradient in bf16 against float64, by the norm of the difference, for autocast with torch's loss and for
`linear_cross_entropy`.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from encdec_lightning.kernels import cross_entropy
from encdec_lightning.kernels.cross_entropy import linear_cross_entropy

LOSSES = (0.0008, 0.004, 0.02, 0.2, 2.0, 10.0)  # of a token


def head_at(loss: float, tokens: int, width: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (N, H), a weight (V, H) and targets (N,): each token has this loss, in float64."""
    made = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary, width, generator=made, dtype=torch.float64) / width**0.5
    weight = weight.float().double()
    targets = torch.randint(vocabulary, (tokens,), generator=made)
    noise = torch.randn(tokens, width, generator=made, dtype=torch.float64)
    low, high = torch.full((tokens, 1), -100.0).double(), torch.full((tokens, 1), 100.0).double()
    for _ in range(60):  # bisection of how far a hidden state points to its target
        middle = (low + high) / 2
        found = functional.cross_entropy((noise + middle * weight[targets]) @ weight.t(), targets, reduction="none")
        low = torch.where(found[:, None] > loss, middle, low)
        high = torch.where(found[:, None] > loss, high, middle)
    return (noise + low * weight[targets]).float().double(), weight, targets


def errors(
    hidden: Tensor, weight: Tensor, targets: Tensor, factor: float = 1.0, smoothing: float = 0.0, pieces: int = 1
) -> dict[str, dict[str, float]]:
    """Of autocast and of ours: the relative error of the loss and of the gradients of the weight and of the states."""

    def all_of(ours: bool, dtype: torch.dtype) -> dict[str, Tensor]:
        state, head = (each.detach().to(dtype, copy=True).requires_grad_() for each in (hidden, weight))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            if ours:
                loss = linear_cross_entropy(state, head, None, targets, smoothing)
            else:
                logits = functional.linear(state, head)
                precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
                loss = functional.cross_entropy(precise, targets, label_smoothing=smoothing, reduction="sum")
        (loss * factor).backward()
        assert state.grad is not None and head.grad is not None
        return {"loss": loss.detach().double(), "head": head.grad.double(), "states": state.grad.double()}

    exact = all_of(ours=False, dtype=torch.float64)
    theirs, before = all_of(ours=False, dtype=torch.float32), cross_entropy.PIECE["cpu"]
    try:
        cross_entropy.PIECE["cpu"] = -(-len(hidden) * len(weight) // pieces)
        mine = all_of(ours=True, dtype=torch.float32)
    finally:
        cross_entropy.PIECE["cpu"] = before
    return {
        who: {name: float((value - exact[name]).norm() / exact[name].norm()) for name, value in found.items()}
        for who, found in (("autocast", theirs), ("ours", mine))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--factor", type=float, default=1 / 997, help="what the loss is multiplied by")
    parser.add_argument("--smoothing", type=float, default=0.0)
    parser.add_argument("--pieces", type=int, default=4)
    options = parser.parse_args()
    made = Table(
        "loss a token", *(f"{what}: {who}" for what in ("loss", "head", "states") for who in ("autocast", "ours"))
    )
    for loss in LOSSES:
        where = head_at(loss, options.tokens, options.width, options.vocabulary)
        found = errors(*where, options.factor, options.smoothing, options.pieces)
        values = (found[who][what] for what in ("loss", "head", "states") for who in ("autocast", "ours"))
        made.add_row(f"{loss:g}", *(f"{value:.3%}" for value in values))
    Console(width=120).print(made)


if __name__ == "__main__":
    main()
