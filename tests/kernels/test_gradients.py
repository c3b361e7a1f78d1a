"""Gradients in memory used before: the same numbers, and nobody's memory is taken."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

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
    hidden = call_in(dtype, model, memory, {}, model.head, ids=ids)
    return linear_cross_entropy(hidden, model.head.weight, model.head.bias, ids, 0.0, memory)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("zero_first", [False, True])
def test_gradients_are_those_of_torch(accumulated: int, zero_first: bool) -> None:
    torch.manual_seed(0)
    model = Tied().double()
    plain, memory = copy.deepcopy(model), GradientMemory()
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
        plain.zero_grad()


def test_bf16_gradients_reach_weights_in_fp32_in_memory_used_before() -> None:
    model, memory, ids = Tied(), GradientMemory(), torch.arange(40)
    places: list[set[int]] = []
    for _ in range(5):
        loss = loss_of(model, ids, memory, torch.bfloat16)
        model.zero_grad()
        loss.backward()
        grads = [weight.grad for weight in model.parameters() if weight.numel() >= SMALLEST]
        assert len(grads) == 3 and all(each is not None and each.dtype == torch.float32 for each in grads)
        places.append({each.data_ptr() for each in grads if each is not None})
        del loss, grads
    assert len(set().union(*places[1:])) <= len(places[0]) + 2  # the head's before its factor; a part of a sum


def backward(weight: nn.Parameter, memory: GradientMemory, value: float) -> None:
    """A gradient of `value` everywhere."""
    Cast.apply(weight, torch.bfloat16, memory).sum().mul(value).backward()


HOLDERS = {
    "itself": lambda grad: (grad, lambda held: held),
    "a view": lambda grad: (grad[1:], lambda held: held),
    "detached": lambda grad: (grad.detach(), lambda held: held),
    "numpy": lambda grad: (grad.numpy(), torch.from_numpy),
    "the storage": lambda grad: (grad.untyped_storage(), lambda held: torch.tensor([]).set_(held)),
    "another weight": lambda grad: (other_with(grad), lambda held: held.grad),
    "a graph": lambda grad: (torch.ones(1, requires_grad=True) * grad, lambda held: held.grad_fn._saved_other),
    "shared": lambda grad: (grad.share_memory_(), lambda held: held),
}


def other_with(grad: Tensor) -> nn.Parameter:
    """Only C++ refers to it where Python's object is gone."""
    other = nn.Parameter(torch.zeros_like(grad))
    other.grad = grad
    return other


@pytest.mark.parametrize("holder", HOLDERS)
def test_gradients_that_somebody_holds_stay(holder: str) -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    backward(weight, memory, 1)
    held, back = HOLDERS[holder](weight.grad)
    for step in range(2, 6):
        weight.grad = None
        backward(weight, memory, step)
        assert (weight.grad == step).all()
        assert (back(held) == 1).all()


def _second_number(receives: Any, sends: Any) -> None:
    gradient = receives.get()
    sends.put("here")
    assert receives.get() == "look"
    sends.put(float(gradient[1, 1]))


def test_a_gradient_sent_to_another_process_stays() -> None:
    context = torch.multiprocessing.get_context("spawn")
    there, back = context.Queue(), context.Queue()
    process = context.Process(target=_second_number, args=(there, back))
    process.start()
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    backward(weight, memory, 1)
    there.put(weight.grad)
    assert back.get(timeout=600) == "here"
    for step in range(2, 5):
        weight.grad = None
        backward(weight, memory, step)
    there.put("look")
    assert back.get(timeout=600) == 1
    process.join()


def test_a_gradient_asked_for_and_set_by_hand_arrives_whole() -> None:
    """As `torch.autograd.grad` and `p.grad = g`, every step, or None every other step, of users' own loops."""
    torch.manual_seed(0)
    model, memory = Tied().double(), GradientMemory()
    plain = copy.deepcopy(model)
    tables = [model.source.weight, model.target.weight]
    for step in range(6):
        ids = torch.randint(1, ROWS, (50,))
        before = [None if table.grad is None else table.grad.clone() for table in tables]
        mine = torch.autograd.grad(loss_of(model, ids, memory, torch.float64), tables)
        expected = nn.functional.cross_entropy(plain.head(plain(ids)), ids, reduction="sum")
        theirs = torch.autograd.grad(expected, [plain.source.weight, plain.target.weight])
        for table, kept, found, true in zip(tables, before, mine, theirs, strict=True):
            torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)
            assert kept is None or torch.equal(table.grad, kept)
            table.grad = None if step % 3 == 2 else found
        del mine, found


def test_gradients_that_add_up_over_graphs() -> None:
    """Two losses in one backward pass, one again with the graph retained: every part arrives once."""
    torch.manual_seed(0)
    model, memory = Tied().double(), GradientMemory()
    plain = copy.deepcopy(model)
    first, second = torch.arange(30), torch.arange(20, 60)
    losses = [loss_of(model, ids, memory, torch.float64) for ids in (first, second)]
    (losses[0] + losses[1]).backward(retain_graph=True)
    losses[1].backward()
    for ids, times in ((first, 1), (second, 2)):
        (nn.functional.cross_entropy(plain.head(plain(ids)), ids, reduction="sum") * times).backward()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12, msg=name)


class Loss(nn.Module):
    """The loss of a model, as DDP wants it: a forward."""

    def __init__(self, model: Tied) -> None:
        super().__init__()
        self.model, self.memory = model, GradientMemory()

    def forward(self, ids: Tensor) -> Tensor:
        return loss_of(self.model, ids, self.memory, torch.float64)


@pytest.mark.parametrize("views", [False, True])
def test_gradients_under_ddp_are_those_of_torch(views: bool, tmp_path: Path) -> None:
    """Its buckets take each gradient as it comes; with views they are the gradients."""
    torch.manual_seed(0)
    model = Tied().double()
    plain = copy.deepcopy(model)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        loss = nn.parallel.DistributedDataParallel(Loss(model), gradient_as_bucket_view=views)
        for step in range(3):
            ids = torch.randint(0, ROWS, (50,))
            for of in (model, plain):
                of.zero_grad()
            with loss.no_sync():
                loss(ids).backward()
            loss(ids).backward()
            (2 * nn.functional.cross_entropy(plain.head(plain(ids)), ids, reduction="sum")).backward()
            for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12, msg=f"{name} {step}")
    finally:
        distributed.destroy_process_group()


def test_gradients_of_many_steps_that_were_held_are_not_kept() -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    held = [memory.take(weight) for _ in range(9)]
    assert len({each.data_ptr() for each in held}) == 9
    del held
    gc.collect()
    assert sum(len(blocks) for blocks in memory._free.values()) == 2


def test_memory_is_like_the_weight() -> None:
    memory = GradientMemory()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        made = memory.take(nn.Parameter(torch.zeros(WIDTH, ROWS, dtype=dtype).t()))
        assert (made.shape, made.dtype, made.is_contiguous(), made._base) == ((ROWS, WIDTH), dtype, True, None)
        assert made.data_ptr() % 64 == 0
        made.fill_(3)
    meta = memory.take(torch.empty(ROWS, WIDTH, device="meta"))
    assert meta.device.type == "meta"


def test_copies_start_empty() -> None:
    weight, memory = nn.Parameter(torch.zeros(ROWS, WIDTH)), GradientMemory()
    Lookup.apply(weight, torch.tensor([1]), None, memory).sum().backward()
    assert vars(copy.deepcopy(memory)) == vars(GradientMemory()) != vars(memory)
    assert len(pickle.dumps(memory)) < 200
    again = copy.deepcopy(weight)
    weight.grad = None
    backward(weight, memory, 2)
    assert (weight.grad == 2).all() and again.grad is None


def test_rows_of_several_lookups_add_up() -> None:
    weight, memory = nn.Parameter(torch.randn(ROWS, WIDTH)), GradientMemory()
    first, second = torch.tensor([[1, 2], [2, 0]]), torch.tensor([2, 3])
    early = Lookup.apply(weight, second, None, memory)
    between = (early.sum() * 0 + weight * 2).sum()
    (Lookup.apply(weight, first, 0, memory).sum() * 3 + early.sum() + between).backward()
    expected = torch.full_like(weight, 2)
    expected[1] += 3
    expected[2] += 7
    expected[3] += 1
    assert torch.equal(weight.grad, expected)


def test_tables_with_more_than_rows_are_left_to_torch() -> None:
    assert is_plain_table(nn.Embedding(ROWS, WIDTH))
    assert not is_plain_table(nn.Embedding(ROWS, WIDTH, max_norm=1.0))
    assert not is_plain_table(nn.Embedding(ROWS, WIDTH, scale_grad_by_freq=True))
    assert not is_plain_table(nn.Embedding(4, WIDTH))
    assert not is_plain_table(nn.Linear(ROWS, WIDTH))
