"""Loaders continue with the very next batch, wherever they stopped."""

from functools import partial
from types import SimpleNamespace

import pytest
import tiny

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.loader import PlanLoader
from encdec_lightning.data.plan import training_plan
from encdec_lightning.data.tokenization import tokenize
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


def ids(batches):
    return [(tuple(pair.id for pair in batch.pairs), batch.update_tokens) for batch in batches]


def test_batches_of_the_plan_in_its_order(data):
    plan = training_plan(data.examples.lengths, 150, 2, seed=0, epoch=5, world_size=2)
    seen = []
    for rank in range(2):
        loader = PlanLoader(data.examples, data.tokenizers, lambda epoch: plan, rank=rank)
        expected = [
            (tuple(data.examples.pairs[index].id for index in row[rank]), update.target_tokens)
            for update in plan
            for row in update.micro_batches
        ]
        assert ids(loader) == expected
        assert len(loader) == len(expected) == 2 * len(plan)
        seen += [one for batch in expected for one in batch[0]]
    assert sorted(seen) == sorted(pair.id for pair in data.examples.pairs)


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
            state = stopped.state_dict() if position else {"epoch": epoch, "yielded": 0, "fingerprint": ""}
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
    assert resumed.state_dict() == loader.state_dict() == {"epoch": 0, "yielded": 2, "fingerprint": ""}


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
    state = new(fingerprint="a" * 64).state_dict()
    same = new(fingerprint="a" * 64)
    same.load_state_dict(state)
    loader = new(fingerprint="b" * 64)
    with pytest.raises(UserError, match=r"task.train is 'bbbbbbbbbbbb': .*other data \(aaaaaaaaaaaa\)"):
        loader.load_state_dict(state)
