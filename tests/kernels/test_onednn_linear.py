from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from encdec_lightning.kernels import onednn_linear as kernel
from encdec_lightning.kernels.onednn_linear import onednn_linear, runs_in_onednn, use_onednn


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """A format of weights that are laid out here; in fp32 as on a processor where that is faster."""
    chosen: torch.dtype = request.param
    monkeypatch.setattr(kernel, "laid_out_is_faster", torch.backends.mkldnn.is_available)
    if not runs_in_onednn(torch.zeros(2, 2, dtype=chosen)):
        pytest.skip("oneDNN does not compute in this format here")
    return chosen


def tolerance(dtype: torch.dtype) -> float:
    return 2.0**-7 if dtype == torch.bfloat16 else 1e-5


@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (3, 5, 48), (300, 48)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_product_is_that_of_a_linear_layer(dtype: torch.dtype, shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, given = torch.randn(80, 48).to(dtype), torch.randn(shape).to(dtype)
    bias = torch.randn(80).to(dtype) if with_bias else None
    exact = nn.functional.linear(given.double(), weight.double(), None if bias is None else bias.double())
    found = onednn_linear(weight, bias)(given)
    assert found.dtype == dtype and found.shape == exact.shape
    assert torch.allclose(found.double(), exact, rtol=tolerance(dtype) / 2, atol=1e-4)


def test_layers_of_a_model_run_so_for_good(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 32), nn.Linear(32, 16)).to(dtype)
    given = torch.randn(4, 48).to(dtype)
    before = model(given)
    use_onednn(model, leave=model[1])
    assert torch.allclose(model(given), before, rtol=3 * tolerance(dtype), atol=3 * tolerance(dtype))
    assert model(given[:0]).shape == (0, 16)
    with torch.no_grad():
        model[0].weight.zero_()
        assert model[0](given).abs().sum() > 0  # as it was
        model[1].weight.zero_()
        model[1].bias.zero_()
    assert model(given).abs().sum() == 0  # as it is


def test_gpt2s_layers_run_so_and_layers_with_one_weight_share_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([Conv1D(32, 48), Conv1D(32, 48), Conv1D(32, 48)]).to(dtype)
    nn.init.normal_(model[0].weight)
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    given = torch.randn(2, 5, 48).to(dtype)
    exact = given.double() @ model[0].weight.double() + model[0].bias.double()
    use_onednn(model)
    assert torch.allclose(model[0](given).double(), exact, rtol=tolerance(dtype), atol=3 * tolerance(dtype))
    shared = [module.forward.args[-1] for module in model]  # type: ignore[union-attr]
    assert shared[0] is shared[1] and shared[0] is not shared[2]


def test_a_layer_whose_forward_is_replaced_keeps_it(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 4).to(dtype)
    layer.forward = lambda given: 2 * given  # type: ignore[method-assign]
    use_onednn(layer)
    given = torch.randn(3, 8).to(dtype)
    assert torch.equal(layer(given), 2 * given)


def test_inputs_in_another_format_are_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4).to(dtype)
    use_onednn(layer)
    layer.double()  # as who casts a copy does
    given = torch.randn(3, 8).double()
    assert torch.equal(layer(given), nn.functional.linear(given, layer.weight, layer.bias))


def test_what_does_not_run_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "laid_out_is_faster", lambda: False)
    assert not runs_in_onednn(torch.zeros(2, 2))
    monkeypatch.setattr(kernel, "laid_out_is_faster", lambda: True)
    assert not runs_in_onednn(torch.zeros(2, 2).double())
    for dtype in (torch.float32, torch.bfloat16):
        assert not runs_in_onednn(torch.zeros(2, 2, dtype=dtype, device="meta"))
