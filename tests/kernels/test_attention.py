"""The attention function and its gradients are those of softmax(scale * q k^T + bias) v, written out in float64."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from encdec_lightning.kernels.attention import SHORT, attention
from encdec_lightning.kernels.packing import Packing, packed

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 0.06}


def plain(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, bias: Tensor | None, scale: float | None
) -> Tensor:
    """(B, H, S, D), (B, G, T, D) twice -> (B, S, H, D); `seen` is true where a query sees a key, `bias` is added."""
    groups = query.shape[1] // key.shape[1]
    key, value = (torch.stack([each] * groups, dim=2).flatten(1, 2) for each in (key, value))
    scores = torch.einsum("bhsd,bhtd->bhst", query, key) * (query.shape[3] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum("bhst,bhtd->bshd", weights / weights.sum(-1, keepdim=True), value)


@dataclass(frozen=True)
class Case:
    """Sizes of the input, and how what is hidden is said."""

    batch: int
    groups: int
    heads_of_group: int
    queries: int
    keys: int
    size: int
    mask: str
    bias: str
    causal: bool
    scaling: float | None
    seed: int


cases = st.builds(
    Case,
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    heads_of_group=st.integers(1, 3),
    queries=st.sampled_from([1, 2, 7, SHORT, SHORT + 1, 33]),
    keys=st.sampled_from([1, 2, 7, 16, 33]),
    size=st.integers(1, 9),
    mask=st.sampled_from(["none", "truths", "numbers", "a row of truths", "a row of numbers"]),
    bias=st.sampled_from(["none", "of all", "one for the batch"]),
    causal=st.booleans(),
    scaling=st.sampled_from([None, 1.0, 0.3]),
    seed=st.integers(0, 999),
)


def made(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None, Tensor | None, Tensor | None]:
    """Query, key, value and the position bias, wanting gradients; the mask as it is given; and what is seen."""
    draw = torch.Generator().manual_seed(case.seed)
    heads = case.groups * case.heads_of_group
    shapes = [(case.batch, heads, case.queries, case.size), *[(case.batch, case.groups, case.keys, case.size)] * 2]
    leaves = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    bias = None
    if case.bias != "none":
        shape = (case.batch if case.bias == "of all" else 1, heads, case.queries, case.keys)
        bias = torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    mask = seen = None
    if case.mask != "none":
        rows = 1 if case.mask.startswith("a row") else case.queries
        seen = torch.rand(case.batch, 1, rows, case.keys, generator=draw) < 0.6
        seen[..., 0] = True  # each query sees a key
        mask = seen if case.mask.endswith("truths") else torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -1e30)
    elif case.causal and case.queries > 1:
        seen = torch.ones(case.queries, case.keys, dtype=torch.bool).tril()
    return leaves, bias, mask, seen


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(deadline=None, max_examples=150)
@given(case=cases)
def test_values_and_gradients_are_those_of_the_definition(dtype: torch.dtype, case: Case) -> None:
    leaves, bias, mask, seen = made(case, dtype)
    if mask is not None and mask.dtype == torch.bool and bias is None:
        mask = mask.expand(-1, -1, case.queries, -1)
    module: Any = SimpleNamespace(is_causal=case.causal)
    output, nothing = attention(module, *leaves, mask, scaling=case.scaling, position_bias=bias)
    assert nothing is None and output.dtype == dtype
    every = leaves if bias is None else [*leaves, bias]
    exact = [each.detach().double().requires_grad_() for each in every]
    expected = plain(*exact[:3], seen, None if bias is None else exact[3], case.scaling)
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(output.double(), expected, **near)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = torch.autograd.grad((expected * weights.double()).sum(), exact)
    for got, want in zip(torch.autograd.grad((output * weights).sum(), every), wanted, strict=True):
        assert got.dtype == dtype
        scale = max(1.0, float(want.abs().max()))  # of a sum of many terms
        torch.testing.assert_close(got.double() / scale, want / scale, **near)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(deadline=None, max_examples=100)
@given(case=cases)
def test_values_without_gradients_are_those_of_the_definition(dtype: torch.dtype, case: Case) -> None:
    """Few queries run on a kernel of their own, others on transformers'."""
    leaves, bias, mask, seen = made(case, dtype)
    if bias is not None and mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -1e30)  # as transformers gives it then
    module: Any = torch.nn.Module()
    module.is_causal = case.causal
    module.num_key_value_groups = case.heads_of_group
    assume(case.queries == case.keys or not case.causal)  # torch aligns others as it likes
    with torch.no_grad():
        output, _ = attention(module, *leaves, mask, scaling=case.scaling, position_bias=bias)
        expected = plain(
            *(each.double() for each in leaves), seen, None if bias is None else bias.double(), case.scaling
        )
    torch.testing.assert_close(output.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(deadline=None, max_examples=60)
@given(
    sources=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    data=st.data(),
    kind=st.sampled_from(["source", "target", "cross"]),
    heads=st.integers(1, 3),
    scaling=st.sampled_from([None, 0.3]),
)
def test_examples_side_by_side_see_themselves_alone(
    dtype: torch.dtype, sources: list[int], data: st.DataObject, kind: str, heads: int, scaling: float | None
) -> None:
    targets = data.draw(st.lists(st.integers(1, 20), min_size=len(sources), max_size=len(sources)))
    packing = Packing(tuple(sources), tuple(targets))
    assume(packing.is_clear)
    queries, keys = (sources if kind == "source" else targets), (targets if kind == "target" else sources)
    draw = torch.Generator().manual_seed(sum(sources))
    leaves = [
        torch.randn(1, heads, sum(lengths), 5, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for lengths in (queries, keys, keys)
    ]
    with packed(packing):
        output, _ = attention(SimpleNamespace(is_causal=kind == "target"), *leaves, None, scaling=scaling)  # type: ignore[arg-type]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    owners = [torch.arange(len(each)).repeat_interleave(torch.tensor(each)) for each in (queries, keys)]
    seen = owners[0][:, None] == owners[1]
    if kind == "target":
        seen = seen & torch.ones_like(seen).tril()
    expected = plain(*exact, seen, None, scaling)
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(output.double(), expected, **near)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=draw).to(dtype)
    wanted = torch.autograd.grad((expected * weights.double()).sum(), exact)
    for got, want in zip(torch.autograd.grad((output * weights).sum(), leaves), wanted, strict=True):
        scale = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got.double() / scale, want / scale, **near)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mask", ["truths", "numbers", "bias and truths", "bias and numbers"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_query_that_sees_nothing_gives_finite_numbers(grad: bool, mask: str, dtype: torch.dtype) -> None:
    """Padding in front of a prefix: what it gives is read by nobody, but must not be nan.

    All scores are far below zero: in fp16 the lowest number and such a score are -inf.
    """
    states = [torch.full((2, 2, 3, 4), value) + torch.randn(2, 2, 3, 4) / 8 for value in (6.0, -6.0, 1.0)]
    leaves = [each.to(dtype).requires_grad_(grad) for each in states]
    bias = torch.randn(1, 2, 3, 3).to(dtype) - 9 if mask.startswith("bias") else None
    seen = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool().expand(2, 1, 3, 3)
    given_mask = (
        seen
        if mask.endswith("truths")
        else torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    )
    with torch.set_grad_enabled(grad):
        output, _ = attention(torch.nn.Module(), *leaves, given_mask, is_causal=False, position_bias=bias)
    assert output.isfinite().all()
    if grad:
        assert all(each.isfinite().all() for each in torch.autograd.grad(output.sum(), leaves))


def test_under_autocast_it_runs_in_autocasts_type_and_gradients_come_back_in_their_own() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 2, 6, 4, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attention(torch.nn.Module(), *leaves, None, is_causal=True)
    assert output.dtype == torch.bfloat16
    exact = [each.detach().double().requires_grad_() for each in leaves]
    expected = plain(*exact, torch.ones(6, 6).bool().tril(), None, None)
    torch.testing.assert_close(output.double(), expected, atol=0.05, rtol=0.05)
    gradients = torch.autograd.grad(output.float().square().sum(), leaves)
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    for got, want in zip(gradients, wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, atol=0.1, rtol=0.1)
