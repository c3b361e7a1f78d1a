"""Dropout of a model in training mode outside gradients (Monte-Carlo dropout) is applied, however few the queries."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encdec_lightning.kernels.attention import SHORT, attention, packed_attention
from encdec_lightning.kernels.packing import Packing

P, DRAWS, KEYS = 0.3, 300, 24


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("queries", [1, 3, SHORT + 1])
@pytest.mark.parametrize("mask", ["none", "numbers", "truths"])
def test_attention_drops_with_and_without_gradients(grad: bool, queries: int, mask: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, queries, 8), torch.randn(2, 4, KEYS, 8), torch.randn(2, 4, KEYS, 8)
    hidden = torch.arange(KEYS)[None, None, None] >= torch.tensor([KEYS, 15])[:, None, None, None]
    masks = {"none": None, "numbers": hidden * -1e9, "truths": ~hidden.expand(2, 1, queries, KEYS)}
    module = nn.Module()

    def of(dropout: float) -> torch.Tensor:
        return attention(module, query, key, value, masks[mask], dropout, is_causal=False)[0]

    with torch.set_grad_enabled(grad):
        sure = of(0.0)
        draws = torch.stack([of(P) for _ in range(DRAWS)]).double()
    probabilities = (
        (query @ key.transpose(2, 3) * 8**-0.5)
        .masked_fill(hidden if mask != "none" else hidden & False, -1e9)
        .softmax(-1)
    )
    # a sum of independent terms, each kept with 1 - p and divided by that
    variance = (probabilities.square() @ value.square() * P / (1 - P)).transpose(1, 2).double()
    torch.testing.assert_close(sure, (probabilities @ value).transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert ((draws.mean(0) - sure).abs() < 5.5 * (variance / DRAWS).sqrt()).all()
    assert float((draws.var(0) / variance).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("grad", [False, True])
def test_packed_attention_drops_with_and_without_gradients(grad: bool) -> None:
    packing = Packing((5, 4), (3, 2))
    query, key, value = (torch.randn(1, 2, 9, 8) for _ in range(3))
    with torch.set_grad_enabled(grad):
        draws = [packed_attention(nn.Module(), query, key, value, packing, P, None, False) for _ in range(3)]
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
