"""Gradients in memory used before: the same numbers, and nobody's memory is taken."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

from encdec_lightning.kernels.cross_entropy import linear_cross_entropy
from encdec_lightning.kernels.gradients import SMALLEST, Cast, GradientMemory, Lookup, is_plain_table
from encdec_lightning.kernels.working_copy import call_in

ROWS, WIDTH = SMALLEST // 64, 64


class Tied(nn.Module):
    """Two tables and a layer; the second table is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.target = nn.Embedding(ROWS, WIDTH)
        self.layer = nn.Linear(WIDTH, 4 * WIDTH * WIDTH // WIDTH)
        self.wide = nn.Linear(4 * WIDTH, SMALLEST // (4 * WIDTH))
        self.back = nn.Linear(SMALLEST // (4 * WIDTH), WIDTH)
        self.head = nn.Linear(WIDTH, ROWS)
        self.head.weight = self.target.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.back(self.wide(self.layer(self.source(ids) + self.target(ids.flip(0)))))
        return hidden


def loss_of(model: Tied, ids: Tensor, memory: GradientMemory, dtype: torch.dtype) -> Tensor:
    memory.keep(model.parameters())
    hidden = call_in(dtype, model, memory, model.head, ids=ids)
    return linear_cross_entropy(hidden, model.head.weight, model.head.bias, ids, 0.0, memory)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("zero_first", [False, True])
def test_gradients_are_those_of_torch(accumulated: int, zero_first: bool) -> None:
    torch.manual_seed(0)
    model = Tied().double()
    plain, memory = copy.deepcopy(model), GradientMemory()
    places = []
    for step in range(4):
        if zero_first:
            model.zero_grad()
        for micro in range(accumulated):
            ids = torch.randint(0, ROWS, (50,), generator=torch.Generator().manual_seed(10 * step + micro))
            ids[:3] = 0
            loss = loss_of(model, ids, memory, torch.float64)
            if micro == 0 and not zero_first:
                model.zero_grad()  # after the forward pass, as Lightning does
            loss.backward()
            hidden = plain(ids)
            nn.functional.cross_entropy(plain.head(hidden), ids, reduction="sum").backward()
        for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12, msg=name)
        assert not model.source.weight.grad[0].any()  # padding
        places.append(model.source.weight.grad.data_ptr())
        plain.zero_grad()
    if not zero_first:
        assert len(set(places)) == 1


def test_bf16_gradients_reach_weights_in_fp32_and_in_place() -> None:
    model, memory, ids = Tied(), GradientMemory(), torch.arange(40)
    places: dict[str, list[int]] = {}
    for _ in range(5):
        loss = loss_of(model, ids, memory, torch.bfloat16)
        model.zero_grad()
        loss.backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None and weight.grad.dtype == torch.float32
            places.setdefault(name, []).append(weight.grad.data_ptr())
    assert len(set(places["source.weight"])) == len(set(places["wide.weight"])) == 1
    assert len(set(places["target.weight"])) == 2  # the head's is computed while the last step's is still needed


@pytest.mark.parametrize(
    "hold", [lambda weight: weight.grad, lambda weight: weight.grad[1:], lambda w: w.grad.detach()]
)
def test_gradients_that_somebody_holds_stay(hold: object) -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    memory.take(weight)  # it asks for memory
    weight.grad = torch.ones_like(weight)
    held = hold(weight)  # type: ignore[operator]
    memory.keep([weight])
    weight.grad = None
    Cast.apply(weight, torch.bfloat16, memory).sum().mul(5).backward()
    assert (held == 1).all() and (weight.grad == 5).all()
    del held


def test_memory_of_another_shape_is_not_handed_out() -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    memory.take(weight)  # it asks for memory
    weight.grad = torch.ones_like(weight)
    memory.keep([weight])
    weight.grad, weight.data = None, torch.zeros(2 * ROWS, WIDTH)
    assert memory.take(weight).shape == weight.shape


def test_gradients_of_weights_that_never_asked_are_not_held() -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    weight.grad = torch.ones_like(weight)
    held = weakref.ref(weight.grad)
    memory.keep([weight])
    weight.grad = None
    assert held() is None


def test_copies_start_empty() -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    Lookup.apply(weight, torch.tensor([1]), None, memory).sum().backward()
    memory.keep([weight])
    assert vars(copy.deepcopy(memory)) == vars(GradientMemory()) != vars(memory)
    assert len(pickle.dumps(memory)) < 200  # weak references cannot be pickled


def test_rows_are_added_to_what_waits_for_them() -> None:
    weight, memory = nn.Parameter(torch.randn(ROWS, WIDTH)), GradientMemory()
    first, second = torch.tensor([[1, 2], [2, 0]]), torch.tensor([2, 3])
    (Lookup.apply(weight, first, 0, memory).sum() * 3 + Lookup.apply(weight, second, None, memory).sum()).backward()
    expected = torch.zeros_like(weight)
    expected[1] += 3
    expected[2] += 7
    expected[3] += 1
    assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("held", [False, True])
def test_other_parts_of_a_gradient_come_between(held: bool) -> None:
    """Where somebody refers to a part, autograd makes a sum of its own, which rows must not miss."""
    weight, memory, ids = nn.Parameter(torch.randn(ROWS, WIDTH)), GradientMemory(), torch.tensor([2, 3])
    early = Lookup.apply(weight, ids, None, memory)  # its backward runs last
    between = (early.sum() * 0 + weight * 2).sum()
    late = Lookup.apply(weight, ids, None, memory)
    kept: list[Tensor] = []
    if held:
        late.grad_fn.register_hook(lambda returned, _: kept.append(returned[0]))
    (between + late.sum() + early.sum()).backward()
    expected = torch.full_like(weight, 2)
    expected[2:4] += 2
    assert len(kept) == held and torch.equal(weight.grad, expected)


def test_tables_with_more_than_rows_are_left_to_torch() -> None:
    assert is_plain_table(nn.Embedding(ROWS, WIDTH))
    assert not is_plain_table(nn.Embedding(ROWS, WIDTH, max_norm=1.0))
    assert not is_plain_table(nn.Embedding(ROWS, WIDTH, scale_grad_by_freq=True))
    assert not is_plain_table(nn.Embedding(4, WIDTH))
    assert not is_plain_table(nn.Linear(ROWS, WIDTH))
