from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import pytest
import torch
import zen_5
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from encdec_lightning.kernels import fast_functions as functions
from encdec_lightning.kernels import processor, products
from encdec_lightning.kernels.fast_functions import FastFunctions, fast_functions
from encdec_lightning.kernels.products import OneDNNLinear, adds_biases, laid_out_is_faster, linear, onednn_is_faster

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


@pytest.fixture
def on_zen_5(monkeypatch: pytest.MonkeyPatch) -> None:
    zen_5.pretend(monkeypatch)


@pytest.mark.parametrize(
    ("told", "faster", "laid_out"),
    [
        (zen_5.TOLD, True, True),
        (zen_5.TOLD | {"cpu family": "27"}, True, True),
        (zen_5.TOLD | {"cpu family": "25"}, True, True),  # Zen 4
        (zen_5.TOLD | {"cpu family": "25", "flags": "fpu avx2"}, False, True),  # Zen 3
        (zen_5.TOLD | {"cpu family": "23"}, False, False),
        (zen_5.TOLD | {"flags": "fpu avx2"}, False, True),  # as a virtual machine may hide them
        (zen_5.TOLD | {"flags": "fpu"}, False, False),
        (zen_5.TOLD | {"vendor_id": "GenuineIntel"}, False, False),
        ({"CPU part": "0xd4f", "Features": "asimd bf16"}, False, False),
        ({}, False, False),
    ],
)
def test_the_processor_alone_decides(
    told: Mapping[str, str], faster: bool, laid_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "told", lambda: told)
    assert onednn_is_faster() is faster and laid_out_is_faster() is laid_out
    for adds in (False, True):
        monkeypatch.setattr(functions, "adds_biases", lambda adds=adds: adds)
        with fast_functions(torch.device("cpu")) as context:
            assert isinstance(context, FastFunctions)
            assert (context._instead.get(functional.linear) is linear) is (faster or adds)
    with fast_functions(torch.device("meta")) as context:
        assert context is None


@pytest.mark.parametrize("gone", [None, lambda given, weight, bias, *more: given.new_zeros(len(given), len(weight))])
def test_an_operator_that_changed_switches_it_off(
    gone: object, on_zen_5: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    products.products_are_exact.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", gone)
    assert not onednn_is_faster()
    (said,) = caplog.messages
    assert "the product of oneDNN in fp32 is off and torch's own linear layers run: " in said
    products.products_are_exact.cache_clear()


def gradients(layer: object, leaves: list[Tensor | None], weights: Tensor) -> list[Tensor]:
    """The product, and its gradients for the leaves that there are."""
    own = [None if each is None else each.detach().requires_grad_() for each in leaves]
    product = layer(*own)  # type: ignore[operator]
    return [product, *torch.autograd.grad((product * weights).sum(), [each for each in own if each is not None])]


@hypothesis_given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    with_bias=st.booleans(),
    turned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_product_and_its_gradients_are_those_of_a_linear_layer(
    shape: list[int], inputs: int, outputs: int, with_bias: bool, turned: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, inputs, generator=random)
    if turned:  # as attention's states are, not contiguous
        values = torch.randn(inputs, *shape, generator=random).movedim(0, -1)
    weight = torch.randn(outputs, inputs, generator=random)
    bias = torch.randn(outputs, generator=random) if with_bias else None
    leaves = [values, weight, bias]
    weights = torch.randn(*shape, outputs, generator=random)
    exact = gradients(functional.linear, [None if each is None else each.double() for each in leaves], weights.double())
    found = gradients(OneDNNLinear.apply, leaves, weights)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32 and one.shape == other.shape
        assert torch.allclose(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not adds_biases(), reason="oneDNN does not compute in bf16 here")
@hypothesis_given(
    rows=st.integers(1, 90), inputs=st.integers(1, 70), outputs=st.integers(1, 70), seed=st.integers(0, 1000)
)
def test_a_layer_in_bf16_and_its_gradients_are_torchs(rows: int, inputs: int, outputs: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(shape, generator=random).bfloat16() for shape in ((rows, inputs), (outputs, inputs))]
    leaves.append(torch.randn(outputs, generator=random).bfloat16())
    weights = torch.randn(rows, outputs, generator=random).bfloat16()
    found, theirs = (gradients(layer, [*leaves], weights) for layer in (OneDNNLinear.apply, functional.linear))
    for one, other in zip(found, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)  # a last bit, where sums are in another order


@pytest.mark.skipif(not adds_biases(), reason="oneDNN does not compute in bf16 here")
def test_layers_in_bf16_with_a_bias_are_computed_so_on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "told", lambda: {})
    seen: list[torch.Size] = []
    theirs = products.product
    monkeypatch.setattr(products, "product", lambda *given: (seen.append(given[0].shape), theirs(*given))[1])
    values = torch.randn(2, 3, 8).bfloat16().requires_grad_()
    with fast_functions(torch.device("cpu")):
        made = Conv1D(5, 6).bfloat16()(nn.Linear(8, 6).bfloat16()(values))
        assert seen == [(6, 8), (6, 6)]
        nn.Linear(8, 6, bias=False).bfloat16()(values)
    made.sum().backward()
    assert seen[2:] == [(6, 5), (6, 6)]  # the gradients of what the layers were given


@pytest.mark.parametrize(("family", "count"), [("25", 2), ("26", 3)])
def test_zen_4_leaves_the_gradient_of_the_weight_to_mkl(
    family: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "told", lambda: zen_5.TOLD | {"cpu family": family})
    seen = zen_5.counted(monkeypatch)
    leaves: list[Tensor | None] = [torch.randn(4, 8), torch.randn(6, 8), None]
    weights = torch.randn(4, 6)
    found = gradients(linear, leaves, weights)
    assert len(seen) == count
    exact = gradients(functional.linear, [None if each is None else each.double() for each in leaves], weights.double())
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_may_be_written_to_in_place(shape: tuple[int, ...], dtype: torch.dtype, on_zen_5: None) -> None:
    """As longformer's queries are, and views of deberta's."""
    values = torch.randn(shape, dtype=dtype, requires_grad=True)
    for layer in (nn.Linear(8, 6, dtype=dtype), Conv1D(6, 8).to(dtype)):
        found = []
        for context in (nullcontext(), fast_functions(torch.device("cpu"))):
            with context:
                made = layer(values)
                made /= 2
                made.transpose(0, -1).mul_(3)
            found += torch.autograd.grad(made.sum(), values)
        torch.testing.assert_close(*found)


def test_an_addmm_with_names_is_torchs(on_zen_5: None) -> None:
    bias, values, weight = torch.randn(6), torch.randn(2, 8), torch.randn(8, 6)
    with fast_functions(torch.device("cpu")):
        found = torch.addmm(input=bias, mat1=values, mat2=weight)
        assert torch.equal(found, torch.addmm(bias, mat1=values, mat2=weight))
    torch.testing.assert_close(found, bias + values @ weight)


def test_gradients_of_any_layout_are_read_right() -> None:
    values, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((6, 5, 8), (7, 8), (7,)))
    layers = (functional.linear, OneDNNLinear.apply)
    for change in (
        lambda product: product.sum(),  # one number for all
        lambda product: product.sum(0).square().sum(),  # the same row for some
        lambda product: product.transpose(0, 1).reshape(-1).cumsum(0).sum(),
        lambda product: product[::2, 1:].square().sum(),
    ):
        theirs, ours = (
            torch.autograd.grad(change(layer(values, weight, bias)), (values, weight, bias)) for layer in layers
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    leaves = [torch.randn(shape) for shape in ((4, 8), (7, 8), (7,))]
    for number, each in enumerate(leaves):
        each.requires_grad_(number != frozen)
    OneDNNLinear.apply(*leaves).square().sum().backward()
    assert [each.grad is None for each in leaves] == [number == frozen for number in range(3)]


def test_modules_are_computed_so_inside_the_context_and_only_there(
    on_zen_5: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = zen_5.counted(monkeypatch)
    plain, turned = nn.Linear(8, 6), Conv1D(5, 6)
    values = torch.randn(2, 3, 8)
    expected = turned(plain(values))
    assert not seen
    with fast_functions(torch.device("cpu")):
        found = turned(plain(values))
    assert seen == [(6, 6), (6, 5)]
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert len(seen) == 5  # values have no gradient


def test_the_rest_is_left_to_torch(on_zen_5: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = zen_5.counted(monkeypatch)
    layer = nn.Linear(8, 6)
    with fast_functions(torch.device("cpu")), torch.no_grad():
        for bias, dtype in ((True, torch.float64), (False, torch.bfloat16), (True, torch.float16)):
            other = nn.Linear(8, 6, bias, dtype=dtype)
            assert other(torch.ones(2, 8, dtype=dtype)).dtype == dtype
        assert layer(torch.ones(8)).shape == (6,)
        assert layer(torch.ones(0, 8)).shape == (0, 6)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.ones(2, 8)).dtype == torch.bfloat16
        assert layer.to("meta")(torch.ones(2, 8, device="meta")).shape == (2, 6)
        assert torch.addmm(torch.ones(1), torch.ones(2, 8), torch.ones(8, 3)).shape == (2, 3)
        assert torch.addmm(torch.ones(3), torch.ones(2, 8), torch.ones(8, 3), beta=2)[0, 0] == 10
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            functional.linear(torch.ones(2, 7), torch.ones(3, 8))
    assert not seen


def test_elsewhere_the_product_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "told", lambda: {})
    values, weight = torch.randn(40, 30), torch.randn(20, 30)
    assert torch.equal(linear(values, weight), functional.linear(values, weight))


def test_the_same_product_again_is_the_same_to_the_last_bit() -> None:
    torch.manual_seed(0)
    leaves: list[Tensor | None] = [torch.randn(900, 96), torch.randn(384, 96), torch.randn(384)]
    weights = torch.randn(900, 384)
    first = gradients(OneDNNLinear.apply, leaves, weights)
    for _ in range(5):
        again = gradients(OneDNNLinear.apply, [None if each is None else each.clone() for each in leaves], weights)
        assert all(torch.equal(one, other) for one, other in zip(again, first, strict=True))


def test_a_second_derivative_is_refused(on_zen_5: None) -> None:
    values = torch.randn(2, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(linear(values, torch.ones(3, 8)).square().sum(), values, create_graph=True)


@pytest.mark.parametrize(
    "bias",
    [
        torch.arange(12.0)[::2],
        torch.ones(1).expand(6),
        torch.tensor(2.0),
        torch.ones(1),
        torch.ones(1, 6),
        torch.arange(12.0).view(2, 6),
    ],
)
def test_a_bias_that_is_no_whole_vector_is_torchs(on_zen_5: None, bias: Tensor) -> None:
    values, weight = torch.randn(2, 8), torch.randn(6, 8)
    with fast_functions(torch.device("cpu")):
        found = functional.linear(input=values, weight=weight, bias=bias)
        turned = torch.addmm(bias, values, weight.t())
    assert torch.equal(found, functional.linear(values, weight, bias))
    assert torch.equal(turned, torch.addmm(bias, values, weight.t()))


def test_what_no_gradient_needs_is_not_kept(on_zen_5: None) -> None:
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        linear(torch.randn(5, 8, requires_grad=True), torch.randn(6, 8))  # of a layer that is frozen
    assert kept == [48]
    values = torch.randn(5, 8, requires_grad=True)
    hidden = values * 1
    found = linear(hidden, torch.ones(6, 8))
    hidden.add_(1)
    found.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, torch.full((5, 8), 6.0))
