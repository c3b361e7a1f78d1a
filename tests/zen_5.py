"""A processor of Zen 5, as the system tells of it, and the products that then go through oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encdec_lightning.kernels import processor, products
from encdec_lightning.kernels.products import onednn_is_faster

TOLD = {"vendor_id": "AuthenticAMD", "cpu family": "26", "flags": "fpu avx2 avx512f"}


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor is one, for whoever asks from now on."""
    monkeypatch.setattr(processor, "told", lambda: TOLD)
    onednn_is_faster.cache_clear()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of products that go through oneDNN from now on."""
    seen: list[torch.Size] = []
    theirs = products.product

    def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        made = theirs(left, right, bias)
        seen.append(made.shape)
        return made

    assert onednn_is_faster()
    monkeypatch.setattr(products, "product", product)
    return seen
