"""Weights in fp32 that are laid out for oneDNN, as on the processors for which that is faster."""

from __future__ import annotations

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, compose
from encdec_lightning.kernels import onednn_linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_generated_texts_are_the_same(
    files: tiny.Files, decoder: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = searches.sharpen(compose(files.bert, getattr(files, decoder), dropout=0.0))
    texts = searches.sources([3, 9, 20])
    theirs = searches.ours(model, texts, Generation(num_beams=beams), 9)
    laid_out = []
    real = onednn_linear.onednn_linear

    def counted(weight: torch.Tensor, bias: torch.Tensor | None) -> object:
        laid_out.append(weight)
        return real(weight, bias)

    monkeypatch.setattr(onednn_linear, "laid_out_is_faster", lambda: True)
    monkeypatch.setattr(onednn_linear, "onednn_linear", counted)
    found = searches.ours(model, texts, Generation(num_beams=beams), 9)
    assert [[each.tokens for each in one] for one in found] == [[each.tokens for each in one] for one in theirs]
    assert laid_out and all(weight.dtype == torch.float32 for weight in laid_out)
