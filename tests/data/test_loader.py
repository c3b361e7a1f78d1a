"""Loaders continue with the very next batch, wherever they stopped."""

from functools import partial
from types import SimpleNamespace

import pytest
import tiny
import torch

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.loader import Origin, PlanLoader
from encdec_lightning.data.batches.plan import training_plan
from encdec_lightning.data.examples.examples import tokenize
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair


@pytest.fixture(scope="module")
def data():
    tokenizers = Tokenizers(tiny.wordpiece())
    pairs = [Pair(row["key"], row["document"], row["summary"]) for row in tiny.pairs(40)]
    return SimpleNamespace(examples=tokenize(pairs, tokenizers, 30, 10), tokenizers=tokenizers)


@pytest.fixture(params=[(1, 1), (2, 2)], ids=["alone", "two of two"])
def new(data, request):
    """Make a loader, on the last of some ranks."""
    accumulate, world_size = request.param

    def plan(epoch):
        return training_plan(data.examples.lengths, 150, accumulate, seed=3, epoch=epoch, world_size=world_size)

    return partial(PlanLoader, data.examples, data.tokenizers, plan, rank=world_size - 1)


START = {"epoch": 0, "yielded": 0, "data": "", "plan": {}}


def ids(batches):
    return [(tuple(pair.id for pair in batch.pairs), batch.update_tokens) for batch in batches]


def test_batches_of_the_plan_in_its_order(data):
    plan = training_plan(data.examples.lengths, 150, 2, seed=0, epoch=5, world_size=2)
    seen = []
    for rank in range(2):
        loader = PlanLoader(data.examples, data.tokenizers, lambda epoch: plan, rank=rank)
        expected = [
            (tuple(data.examples.pair(index).id for index in row[rank]), update.target_tokens)
            for update in plan
            for row in update.micro_batches
        ]
        assert ids(loader) == expected
        assert len(loader) == len(expected) == 2 * len(plan)
        seen += [one for batch in expected for one in batch[0]]
    assert sorted(seen) == sorted(data.examples.pair(number).id for number in range(40))


def test_every_position_continues_with_the_next_batch(new):
    whole = new()
    length = len(whole)
    assert length >= 4
    epochs = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        epochs.append(ids(whole))
        assert len(epochs[-1]) == length
    assert epochs[0] != epochs[1] != epochs[2]

    for epoch in range(2):
        for position in range(length + 1):
            stopped = new()
            stopped.set_epoch(epoch)
            batches = iter(stopped)
            for _ in range(position):
                next(batches)
            state = stopped.state_dict() if position else START | {"epoch": epoch}
            resumed = new()
            resumed.load_state_dict(state)
            at = epoch + (position == length)  # at the end, Lightning goes on with the epoch after
            resumed.set_epoch(at)
            rest = ids(resumed)
            assert rest == epochs[at][position % length :], (epoch, position)
            resumed.set_epoch(at + 1)
            if at < 2:
                assert ids(resumed) == epochs[at + 1]  # whole again


def test_the_epoch_is_part_of_the_state(new):
    loader, resumed = new(), new()
    loader.set_epoch(1)
    expected = ids(loader)
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    assert ids(resumed) == expected[1:]


def test_a_state_loaded_and_saved_at_once_is_the_same(new):
    loader, resumed = new(), new()
    batches = iter(loader)
    next(batches)
    next(batches)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.state_dict() == loader.state_dict() == START | {"yielded": 2}


def test_the_position_counts_what_was_handed_out(new):
    loader = new()
    assert loader.state_dict()["yielded"] == 0
    for number, _ in enumerate(loader, start=1):
        assert loader.state_dict()["yielded"] == number % len(loader)
    assert ids(loader) == ids(loader)  # every iteration starts anew


def test_lightning_sets_the_epoch_on_the_sampler(new):
    loader, other = new(), new()
    loader.sampler.set_epoch(2)
    other.set_epoch(2)
    assert ids(loader) == ids(other) != ids(new())


def test_other_data_are_refused(new):
    state = new(origin=Origin("a" * 64)).state_dict()
    new(origin=Origin("a" * 64)).load_state_dict(state)
    loader = new(origin=Origin("b" * 64))
    with pytest.raises(UserError, match=r"task.train is 'bbbbbbbbbbbb': .*other data \(aaaaaaaaaaaa\)"):
        loader.load_state_dict(state)


def test_another_plan_is_refused_in_mid_epoch_alone(new):
    loader, other = (new(origin=Origin(plan={"data.batch_tokens": tokens, "devices": 1})) for tokens in (150, 200))
    other.load_state_dict(loader.state_dict())
    next(iter(loader))
    with pytest.raises(UserError, match=r"data.batch_tokens is 200: .* middle of an epoch planned with 150"):
        other.load_state_dict(loader.state_dict())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(new, workers):
    alone, helped = new(), new(workers=workers)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for epoch in range(2):
        for loader in (alone, helped):
            loader.set_epoch(epoch)
        for one, other in zip(alone, helped, strict=True):
            assert one.pairs == other.pairs
            assert torch.equal(one.source_ids, other.source_ids)
            assert torch.equal(one.decoder_input_ids, other.decoder_input_ids)
            assert alone.state_dict() == helped.state_dict()  # what is fetched ahead is not yet handed out
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_of_other_workers_continues(new):
    loader, resumed = new(workers=2), new(workers=1)
    expected = ids(new())
    batches = iter(loader)
    assert ids([next(batches), next(batches)]) == expected[:2]
    resumed.load_state_dict(loader.state_dict())
    assert ids(resumed) == expected[2:]


def test_a_state_of_an_epoch_that_was_cut_short_does_not_shorten_the_next(new):
    """Trainer(limit_train_batches=1) saves at the end of its epoch, and goes on with the next."""
    loader, resumed = new(), new()
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert len(ids(resumed)) == len(resumed)


def test_batches_lie_where_a_gpu_reads_them(new, monkeypatch):
    """Without workers; with some, torch's loader does it (tests/gpu)."""
    pinned, copies = [], []
    assert not next(iter(new())).source_ids.is_pinned()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    batch = next(iter(new()))
    monkeypatch.undo()
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert sorted(pinned) == sorted(each.shape for each in tensors)
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda tensor, *args, **named: copies.append(named["non_blocking"]) or to(tensor, *args, **named),
    )
    batch.to("meta")
    assert copies == [True] * len(tensors)
    copies.clear()
    batch.to("cpu")
    assert copies == [False] * len(tensors)
