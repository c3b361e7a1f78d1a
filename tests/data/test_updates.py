"""Updates of a fixed size: the papers' batch sizes on however many devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.data.batches.updates import UpdatePlanner, examples_for

SHAPES = st.sampled_from(["even", "long tail", "two kinds", "one length"])


def lengths_of(shape: str, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    source = {
        "even": draw.integers(1, 60, count),
        "long tail": np.minimum(60, draw.geometric(0.1, count)),
        "two kinds": np.where(draw.random(count) < 0.9, 5, 60),
        "one length": np.full(count, 17),
    }[shape]
    return np.stack([source, draw.integers(1, 21, count)], axis=1).astype(np.int32)


def members(update):
    return [int(index) for row in update.micro_batches for batch in row for index in batch]


@settings(deadline=None, max_examples=150)
@given(
    shape=SHAPES,
    count=st.integers(1, 300),
    examples=st.integers(1, 64),
    batch_tokens=st.integers(84, 600),  # holds the longest pair
    world_size=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_every_plan(shape, count, examples, batch_tokens, world_size, seed):
    lengths = lengths_of(shape, count, seed)
    planner = UpdatePlanner(lengths, batch_tokens, examples, seed, world_size)
    for epoch in range(3):
        plan = planner.plan(epoch)
        assert sorted(index for update in plan for index in members(update)) == list(range(count))
        sizes = [len(members(update)) for update in plan]
        assert sizes == [examples] * (count // examples) + [count % examples] * (count % examples > 0)
        assert plan.batches == len(plan) * planner.micro_batches
        for update in plan:
            assert len(update.micro_batches) == planner.micro_batches
            assert {len(row) for row in update.micro_batches} == {world_size}
            assert update.target_tokens == int(lengths[members(update), 1].sum())
            for row in update.micro_batches:
                for batch in row:
                    if len(batch) > 0:
                        assert len(batch) * int(lengths[batch].max(axis=0).sum()) <= batch_tokens
    again = UpdatePlanner(lengths.copy(), batch_tokens, examples, seed, world_size).plan(1)
    assert [members(update) for update in again] == [members(update) for update in planner.plan(1)]


def like_summaries(count: int) -> np.ndarray:
    """Lengths as of package descriptions and their synopses: medians 77 and 10, few of several hundred."""
    draw = np.random.default_rng(0)
    source = np.clip(77 * np.exp(0.6 * draw.standard_normal(count)), 10, 512)
    return np.stack([source, np.clip(draw.normal(10, 4, count), 3, 30)], axis=1).astype(np.int32)


LENGTHS = like_summaries(5000)
BUDGET = 4000


def padded(plan):
    return sum(
        len(batch) * int(LENGTHS[batch].max(axis=0).sum())
        for update in plan
        for row in update.micro_batches
        for batch in row
        if len(batch)
    )


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("examples", [64, 256])
def test_little_padding(examples, world_size):
    """Drawn at random and sorted inside each update, such micro-batches would be up to a quarter padding."""
    plan = UpdatePlanner(LENGTHS, BUDGET, examples, 0, world_size).plan(0)
    assert 1 - LENGTHS.sum() / padded(plan) < 0.1


def test_epochs_and_seeds_differ_and_updates_mix_lengths():
    plans = [UpdatePlanner(LENGTHS, BUDGET, 64, seed, 1).plan(epoch) for seed in range(2) for epoch in range(2)]
    sets = [{frozenset(members(update)) for update in plan} for plan in plans]
    assert all(not one & other for number, one in enumerate(sets) for other in sets[:number])
    means = [LENGTHS[members(update), 0].mean() for update in plans[0]][:-1]
    assert np.std(means) < 0.15 * np.mean(means)  # each update sees the whole range of lengths


def test_partners_change():
    """Of those that share an update in one epoch, hardly any share one in the next."""
    lengths = like_summaries(40000)
    one, other = (UpdatePlanner(lengths, BUDGET, 64, 0, 1).plan(epoch) for epoch in range(2))
    place = np.zeros(len(lengths), dtype=int)
    for number, update in enumerate(other):
        place[members(update)] = number
    kept = [np.mean(place[group][:, None] == place[group]) for group in map(members, one)]
    assert np.mean(kept) < 0.05  # 1/64 of it each with itself


def test_the_incomplete_update_is_the_last_and_sees_all_lengths():
    planner = UpdatePlanner(LENGTHS, BUDGET, 300, 0, 1)
    last = members(planner.plan(0)[-1])
    assert len(last) == 200
    assert abs(LENGTHS[last, 0].mean() / LENGTHS[:, 0].mean() - 1) < 0.1
    assert set(last) != set(members(planner.plan(1)[-1]))


def test_ranks_do_equal_work():
    plan = UpdatePlanner(LENGTHS, BUDGET, 256, 0, 4).plan(0)
    busy = waiting = 0
    for update in plan:
        for row in update.micro_batches:
            work = [len(batch) * int(LENGTHS[batch].max(axis=0).sum()) if len(batch) else 0 for batch in row]
            busy += sum(work)
            waiting += 4 * max(work) - sum(work)
    assert waiting / (busy + waiting) < 0.2


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    UpdatePlanner(LENGTHS, BUDGET, 64, 0, 1).plan(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_examples_for_a_number_of_target_tokens():
    assert examples_for(1000, np.array([[5, 10], [5, 30]])) == 50
    assert examples_for(1, np.array([[5, 10]])) == 1
