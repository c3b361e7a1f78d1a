from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from encdec_lightning.kernels.attention import attention
from encdec_lightning.kernels.packing import ANOTHER_GROUP, LANES, Packing, packed

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
HEADS, SIZE = 2, 4


def rows(lengths: list[int], seed: int) -> torch.Tensor:
    """(1, H, N, D) random vectors that want a gradient."""
    made = torch.randn(1, sum(lengths), HEADS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_().transpose(1, 2)


@settings(deadline=None, max_examples=150)
@given(sources=LENGTHS, data=st.data(), kind=st.sampled_from(["source", "target", "cross"]), one_group=st.booleans())
def test_attention_and_its_gradients_are_those_of_each_example_alone(
    sources: list[int], data: st.DataObject, kind: str, one_group: bool
) -> None:
    targets = data.draw(st.lists(st.integers(1, 9), min_size=len(sources), max_size=len(sources)))
    packing = Packing(tuple(sources), tuple(targets))
    if not packing.is_clear:
        return
    queries = sources if kind == "source" else targets
    keys = targets if kind == "target" else sources
    leaves = [rows(queries, 1), rows(keys, 2), rows(keys, 3)]
    patch = pytest.MonkeyPatch()
    patch.setattr("encdec_lightning.kernels.packing.ANOTHER_GROUP", ANOTHER_GROUP if one_group else 3)
    with packed(packing):
        output, _ = attention(SimpleNamespace(is_causal=kind == "target"), *leaves, None)
    patch.undo()
    splits = [each.split(lengths, dim=2) for each, lengths in zip(leaves, (queries, keys, keys), strict=True)]
    expected = torch.cat(
        [
            functional.scaled_dot_product_attention(q, k, v, is_causal=kind == "target").transpose(1, 2)
            for q, k, v in zip(*splits, strict=True)
        ],
        dim=1,
    )
    assert torch.allclose(output, expected, atol=1e-12)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    ours = torch.autograd.grad((output * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=40), heads=st.integers(1, 3))
@settings(deadline=None)
def test_groups_hold_every_example_once_in_order_with_bounded_padding(lengths: list[int], heads: int) -> None:
    lengths = sorted(lengths, reverse=True)
    groups = Packing(tuple(lengths), (1,)).groups(sum(lengths), sum(lengths), heads) if sum(lengths) > 1 else ()
    begin = 0
    for group in groups:
        members = lengths[begin : begin + group.queries.count]
        begin += group.queries.count
        assert (group.queries.width, group.queries.tokens) == (max(members), sum(members))
        widths = [-(-each // LANES) * LANES for each in members]
        scores = group.queries.count * group.queries.width * group.keys.width
        assert group.keys.width == max(widths)
        alone = sum(length * width for length, width in zip(members, widths, strict=True))
        assert scores - alone <= ANOTHER_GROUP
        numbers = torch.arange(sum(members) * heads)[:, None]
        back = torch.empty_like(numbers)
        group.queries.unpad(group.queries.pad(numbers), back)
        assert torch.equal(back, numbers)
    assert begin == len(lengths) or not groups


def test_as_many_source_as_target_tokens_cannot_be_told_apart() -> None:
    assert not Packing((3, 2), (4, 1)).is_clear
    assert Packing((3, 2), (4, 2)).is_clear
    assert not Packing((3, 2), (4, 0)).is_clear  # a rank without an example


def test_the_context_ends_with_an_error_too() -> None:
    q = torch.randn(1, 1, 4, 2, requires_grad=True)
    with pytest.raises(ZeroDivisionError), packed(Packing((4,), (1,))):
        1 / 0  # noqa: B018
    whole, _ = attention(SimpleNamespace(is_causal=False), q, q, q, None)
    assert torch.allclose(whole.transpose(1, 2), functional.scaled_dot_product_attention(q, q, q), atol=1e-6)
