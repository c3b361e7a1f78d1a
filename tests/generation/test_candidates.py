from __future__ import annotations

import pytest
import torch

from encdec_lightning.generation.candidates import candidates, everything
from encdec_lightning.generation.logits import PIECE, Head, pieces_of

SIZES = [7, PIECE, PIECE + 3, 5 * PIECE, 5 * PIECE + 700]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 5, 20_000])
def test_the_likeliest_tokens_and_the_normalizer(size: int, dtype: torch.dtype, count: int) -> None:
    torch.manual_seed(size)
    hidden, weight, bias = torch.randn(6, 16), torch.randn(size, 16), torch.randn(size)
    hidden, weight, bias = (each.to(dtype) for each in (hidden, weight, bias))
    logits = torch.nn.functional.linear(hidden, weight, bias)
    head = Head(weight, bias)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for pieces in (head.pieces(hidden), head.pieces(hidden[:3]), pieces_of(logits)):
        found = candidates(pieces, count)
        expected = logits[: len(found.logits)].float()
        assert torch.allclose(found.logits, expected.topk(min(count, size)).values, atol=tolerance, rtol=tolerance)
        assert torch.allclose(expected.gather(1, found.tokens), found.logits, atol=tolerance, rtol=tolerance)
        assert torch.allclose(found.normalizer, expected.logsumexp(1), atol=tolerance, rtol=tolerance)
        assert torch.allclose(everything(pieces).logits, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_forbidden_is_not_found_and_counts_in_the_normalizer(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, size)
    first = logits.argmax(1)

    def forbid(piece: torch.Tensor, start: int) -> None:
        for row, token in enumerate(first.tolist()):
            if start <= token < start + piece.shape[1]:
                piece[row, token - start] = -torch.inf

    expected = logits.topk(2).indices[:, 1:]
    normalizer = logits.logsumexp(1)
    found = candidates(pieces_of(logits.clone()), 1, forbid)
    assert torch.equal(found.tokens, expected)
    assert torch.allclose(found.normalizer, normalizer)


def test_the_normalizer_of_logits_that_a_model_has_set_to_minus_infinity() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, PIECE + 3)
    logits[1, 0] = logits[2, PIECE] = -torch.inf
    found = candidates(pieces_of(logits), 2)
    assert torch.equal(found.tokens, logits.topk(2).indices)
    assert torch.allclose(found.normalizer, logits.logsumexp(1))
