from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from encdec_lightning.kernels.onednn_linear import onednn_linear, runs_in_onednn, use_onednn

SMALL = torch.zeros(2, 2, dtype=torch.bfloat16)
needs_bf16 = pytest.mark.skipif(not runs_in_onednn(SMALL), reason="oneDNN has no bf16 here")


@needs_bf16
@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (3, 5, 48), (300, 48)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_product_is_that_of_a_linear_layer(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, given = torch.randn(80, 48).bfloat16(), torch.randn(shape).bfloat16()
    bias = torch.randn(80).bfloat16() if with_bias else None
    exact = nn.functional.linear(given.double(), weight.double(), None if bias is None else bias.double())
    found = onednn_linear(weight, bias)(given)
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-4)


@needs_bf16
def test_layers_of_a_model_run_so_for_good() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 32), nn.Linear(32, 16)).bfloat16()
    given = torch.randn(4, 48).bfloat16()
    before = model(given)
    use_onednn(model, leave=model[1])
    assert torch.allclose(model(given).float(), before.float(), rtol=2e-2, atol=2e-2)
    assert model(given[:0]).shape == (0, 16)
    with torch.no_grad():
        model[0].weight.zero_()
        assert model[0](given).abs().sum() > 0  # as it was
        model[1].weight.zero_()
        model[1].bias.zero_()
    assert model(given).abs().sum() == 0  # as it is


@needs_bf16
def test_gpt2s_layers_run_so_and_layers_with_one_weight_share_it() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([Conv1D(32, 48), Conv1D(32, 48), Conv1D(32, 48)]).bfloat16()
    nn.init.normal_(model[0].weight)
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    given = torch.randn(2, 5, 48).bfloat16()
    exact = given.double() @ model[0].weight.double() + model[0].bias.double()
    use_onednn(model)
    assert torch.allclose(model[0](given).double(), exact, rtol=2**-7, atol=2e-2)
    shared = [module.forward.args[1] for module in model]  # type: ignore[union-attr]
    assert shared[0] is shared[1] and shared[0] is not shared[2]


def test_what_does_not_run_so() -> None:
    assert not runs_in_onednn(SMALL.float())
    assert not runs_in_onednn(SMALL.to("meta"))
