from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from encdec_lightning.kernels import int8_linear
from encdec_lightning.kernels.int8_linear import (
    AT_ONCE,
    FEWER_LEVELS,
    LEVELS,
    Int8Linear,
    Quantizer,
    products_are_exact,
    use_int8,
    weight_levels,
)

needs_int8 = pytest.mark.skipif(not products_are_exact(), reason="oneDNN computes no exact int8 products here")


def levels(values: Tensor, most: int = 127) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 and what they are multiplied by, row by row, in the plainest way."""
    scale = values.float().abs().amax(-1, keepdim=True) / most
    whole = (values.float() / scale).round().nan_to_num(0)  # a row of zeros
    return whole.double(), scale.double()


def slowly(given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same product in float64."""
    (vectors, of_vectors), (rows, of_rows) = levels(given), levels(weight, weight_levels())
    product = (vectors @ rows.T) * of_vectors * of_rows.T
    return product if bias is None else product + bias.double()


@needs_int8
@settings(deadline=None, max_examples=30)
@drawn(
    st.sampled_from([(1, 3), (7, 48), (3, 5, 48), (2, 300), (2 * AT_ONCE + 9, 33)]),
    st.integers(1, 80), st.booleans(), st.sampled_from([1e-20, 1e-3, 1.0, 1e9]), st.booleans(),
)  # fmt: skip
def test_it_is_the_product_of_quantized_vectors_and_weights(
    shape: tuple[int, ...], outputs: int, with_bias: bool, size: float, with_zeros: bool
) -> None:
    torch.manual_seed(outputs)
    given, weight = torch.randn(shape) * size, torch.randn(outputs, shape[-1])
    bias = torch.randn(outputs) * size if with_bias else None
    if with_zeros:
        given.view(-1, shape[-1])[0] = 0
        weight[0] = 0
    exact = slowly(given, weight, bias)
    linear = Int8Linear(weight, bias, Quantizer())
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * size}
    assert torch.allclose(linear(given).double(), exact, **tolerance)
    into = torch.full((given.numel() // shape[-1], outputs), torch.nan)
    assert linear(given, into) is into and torch.allclose(into.double(), exact.flatten(0, -2), **tolerance)
    low = linear(given.bfloat16())
    assert low.dtype == torch.bfloat16 and low.shape == exact.shape
    in_low = slowly(given.bfloat16(), weight, bias)
    assert torch.allclose(low.double(), in_low, rtol=2**-7, atol=0.02 * float(in_low.abs().max()))


@needs_int8
def test_a_vector_is_quantized_by_itself() -> None:
    torch.manual_seed(0)
    linear, one = Int8Linear(torch.randn(70, 48), torch.randn(70), Quantizer()), torch.randn(1, 48)
    beside = torch.cat([1e4 * torch.randn(AT_ONCE, 48), one])
    assert torch.equal(linear(beside)[-1:], linear(one))


@needs_int8
def test_layers_share_the_quantization_of_the_same_tensor_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calls: list[Tensor] = []
    theirs = int8_linear.quantized
    monkeypatch.setattr(int8_linear, "quantized", lambda vectors: calls.append(vectors) or theirs(vectors))
    model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    use_int8(model)
    given = torch.randn(3, 8)
    with torch.no_grad():
        first, second = model[0](given), model[1](given)
        assert len(calls) == 1 and not torch.equal(first, second)
        given.mul_(-1)  # in place: another value of the same tensor
        assert torch.allclose(model[0](given) + first, 2 * model[0].bias) and len(calls) == 2
        assert torch.equal(model[0](given.clone()), model[0](given)) and len(calls) == 4
    with torch.inference_mode():
        given = torch.randn(3, 8)
        before = model[0](given).clone()
        given.mul_(-1)  # such tensors do not count their changes
        assert torch.allclose(model[0](given) + before, 2 * model[0].bias)


@needs_int8
def test_linear_layers_of_both_kinds_run_so_for_good() -> None:
    torch.manual_seed(0)
    tied = nn.Linear(32, 32)
    model = nn.Sequential(Conv1D(32, 48), tied, nn.Linear(32, 16), nn.Linear(16, 16))
    nn.init.normal_(model[0].weight)
    model.append(nn.Linear(16, 16))
    other = nn.Linear(32, 32)
    other.weight, other.bias = tied.weight, tied.bias
    model.insert(2, other)
    given = torch.randn(4, 48)
    before = model(given)
    use_int8(model, leave=model[4])
    with torch.no_grad():
        found = model(given)
        assert not torch.equal(found, before)
        assert float((found - before).norm() / before.norm()) < 0.05
        turned = slowly(given, model[0].weight.T, model[0].bias)
        assert torch.allclose(model[0](given).double(), turned, rtol=1e-5, atol=1e-5)
        assert model(given[:0]).shape == (0, 16)
        for parameter in model.parameters():
            parameter.zero_()
        assert model[:4](given).abs().sum() > 0  # as they were
        assert model(given).abs().sum() > 0 and model[4](torch.randn(2, 16)).abs().sum() == 0  # as it is
    shared = [module.forward.args[1] for module in model[1:3]]  # type: ignore[union-attr]
    assert shared[0] is shared[1]  # one weight, one copy


@needs_int8
@settings(deadline=None, max_examples=30)
@drawn(st.integers(1, 70), st.integers(1, 40), st.integers(1, 1040), st.integers(0, 2**16))
def test_sums_of_the_largest_levels_are_exact(vectors: int, outputs: int, inputs: int, seed: int) -> None:
    """Which a processor without VNNI cuts, unless weights have fewer levels; fp32 holds them up to 1,040 inputs."""
    generator = torch.Generator().manual_seed(seed)
    most = weight_levels()
    signs = [torch.randint(0, 2, (count, inputs), generator=generator) * 2 - 1 for count in (vectors, outputs)]
    signs[0][0], signs[1][0] = 1, 1
    signs[1][-1] = -1
    given, weight = signs[0].float() * LEVELS, signs[1].float() * most
    assert torch.equal(Int8Linear(weight, None, Quantizer())(given).double(), given.double() @ weight.double().T)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was found out about this processor, before and after a test."""

    def forget() -> None:
        products_are_exact.cache_clear()  # type: ignore[attr-defined]
        weight_levels.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    "product", [None, lambda *given: torch.zeros(3, 3), lambda *given: torch.full((3, 3), 32767.0)]
)
def test_another_torch_is_noticed(
    product: Any, forgotten: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Operators:
        qlinear_prepack = staticmethod(lambda weight, shape: weight)

    if product is not None:
        Operators.qlinear_pointwise = staticmethod(product)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.ops, "onednn", Operators)
    assert not products_are_exact()
    (said,) = caplog.messages
    assert "the product of int8 weights is off and generation.quantize=int8 is refused: " in said


def test_a_processor_that_adds_in_16_bits_gets_weights_of_fewer_levels(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As AVX2 does without VNNI: `vpmaddubsw` adds two products and cuts the sum to 16 bits."""

    def cut(vectors: Tensor, scale: float, zero: int, levels: Tensor, of_rows: Tensor, *others: Any) -> Tensor:
        products = (vectors.int()[:, None] * levels.int()).unflatten(-1, (-1, 2)).sum(-1)
        sums = products.clamp(-(2**15), 2**15 - 1).sum(-1) - zero * levels.int().sum(1)
        return sums * of_rows

    class Operators:
        qlinear_prepack = staticmethod(lambda weight, shape: weight)
        qlinear_pointwise = staticmethod(cut)

    monkeypatch.setattr(torch.ops, "onednn", Operators)
    assert products_are_exact() and weight_levels() == FEWER_LEVELS and not caplog.messages
    given, weight = 40 + torch.randn(9, 48), 2 + torch.randn(5, 48).abs()
    exact = slowly(given, weight, None)
    assert torch.allclose(Int8Linear(weight, None, Quantizer())(given).double(), exact, rtol=1e-5)
    assert not torch.allclose(Int8Linear(weight, None, Quantizer(), LEVELS)(given).double(), exact, rtol=0.01)
