"""Plans: every example once, the same work on every rank, budgets kept, a function of seed and epoch."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.data.batches.plan import SOURCE_BIN, TARGET_BIN, evaluation_plan, training_plan
from encdec_lightning.errors import UserError

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=60).map(
    lambda rows: np.array(rows, dtype=np.int64)
)
BUDGETS = st.integers(1, 400)
MANY = np.random.default_rng(0).integers(1, 50, (300, 2))


def examples_of(plan):
    return [int(index) for update in plan for row in update.micro_batches for batch in row for index in batch]


def updates_of(plan):
    """The plan as plain values."""
    return [
        ([[batch.tolist() for batch in row] for row in update.micro_batches], update.target_tokens) for update in plan
    ]


def check(plan, lengths, batch_tokens, accumulate, world_size, least=1):
    """What holds of every plan."""
    assert plan.batches == len(plan) * accumulate
    assert sorted(examples_of(plan)) == list(range(len(lengths)))
    for update in plan:
        assert len(update.micro_batches) == accumulate
        tokens = 0
        for row in update.micro_batches:
            assert len(row) == world_size
            for batch in row:
                assert len(batch) >= least
                if not len(batch):
                    continue
                padded = len(batch) * int(lengths[list(batch)].max(axis=0).sum())
                assert len(batch) == 1 or padded <= batch_tokens
                tokens += sum(int(lengths[index, 1]) for index in batch)
        assert update.target_tokens == tokens


@settings(deadline=None)
@given(
    lengths=LENGTHS,
    batch_tokens=BUDGETS,
    accumulate=st.integers(1, 3),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_training_plans(lengths, batch_tokens, accumulate, world_size, seed):
    options = {"batch_tokens": batch_tokens, "accumulate": accumulate, "seed": seed, "world_size": world_size}
    if len(lengths) < accumulate * world_size:
        with pytest.raises(UserError):
            training_plan(lengths, epoch=0, **options)
        return
    try:
        plans = [training_plan(lengths, epoch=epoch, **options) for epoch in range(4)]
    except UserError:
        assert len(lengths) % (accumulate * world_size)  # only where one example a batch would not do, either
        return
    for plan in plans:
        check(plan, lengths, batch_tokens, accumulate, world_size)
    assert len({len(plan) for plan in plans}) == 1
    assert updates_of(training_plan(lengths.copy(), epoch=2, **options)) == updates_of(plans[2])


@settings(deadline=None)
@given(lengths=LENGTHS, batch_tokens=BUDGETS, world_size=st.integers(1, 4))
def test_evaluation_plans(lengths, batch_tokens, world_size):
    plan = evaluation_plan(lengths, batch_tokens, world_size)
    check(plan, lengths, batch_tokens, 1, world_size, least=0)
    sizes = [len(batch) for update in plan for row in update.micro_batches for batch in row]
    assert sizes.count(0) < world_size
    assert 0 not in sizes or max(sizes) == 1  # no rank idles while another has two examples
    assert updates_of(evaluation_plan(lengths.copy(), batch_tokens, world_size)) == updates_of(plan)
    bins = -(-lengths // [SOURCE_BIN, TARGET_BIN])
    batches = [
        [tuple(bins[index]) for row in update.micro_batches for each in row for index in each] for update in plan
    ]
    found = [pair for batch in sorted(batches, reverse=True) for pair in batch]
    assert found == sorted(found, reverse=True)  # neighbours by length together
    assert batches[0] == max(batches)  # the longest first, so that memory runs out at once if it does


def test_the_first_few_evaluation_batches_have_texts_of_all_lengths():
    lengths = np.stack([np.arange(1, 401)] * 2, axis=1)
    plan = evaluation_plan(lengths, 2000, 1)
    means = [
        float(np.mean([lengths[index].sum() for index in row[0]])) for update in plan for row in update.micro_batches
    ]
    assert len(means) > 30 and means != sorted(means, reverse=True)
    whole = lengths.sum(axis=1).mean()
    assert abs(np.mean(means[:8]) - np.mean(means)) < 0.15 * whole


def plan_of(seed=0, epoch=0, lengths=MANY, **options):
    return training_plan(lengths, **({"batch_tokens": 500, "accumulate": 2, "world_size": 2} | options), seed=seed, epoch=epoch)  # fmt: skip


def test_another_epoch_and_another_seed_are_another_order():
    plans = [plan_of(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(examples_of(plan)) for plan in plans}) == 9
    partners = [
        {frozenset(batch.tolist()) for update in plan for row in update.micro_batches for batch in row}
        for plan in plans
    ]
    for one, other in pairwise(partners):
        assert len(one & other) < len(one) / 2  # not only the order: the batches are other ones, too


def test_the_order_of_batches_is_not_that_of_lengths():
    plan = plan_of(accumulate=1, world_size=1)
    longest = [MANY[list(update.micro_batches[0][0]), 0].max() for update in plan]
    assert len(longest) > 20
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.6


def test_batches_hold_similar_lengths_and_use_the_budget():
    padded = sum(
        len(batch) * int(MANY[list(batch)].max(axis=0).sum())
        for update in plan_of()
        for row in update.micro_batches
        for batch in row
    )
    assert MANY.sum() / padded > 0.7  # drawn at random, batches of this size are half padding


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    plan_of()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_examples_of_one_length_fill_batches_exactly():
    lengths = np.full((24, 2), [8, 4])
    plan = training_plan(lengths, batch_tokens=72, accumulate=2, seed=0, epoch=0, world_size=2)
    assert [[len(batch) for row in update.micro_batches for batch in row] for update in plan] == [[6, 6, 6, 6]]
    plan = training_plan(lengths, batch_tokens=71, accumulate=1, seed=0, epoch=0, world_size=1)
    assert sorted(len(batch) for update in plan for row in update.micro_batches for batch in row) == [4, 5, 5, 5, 5]


def test_one_example_may_be_larger_than_the_budget():
    lengths = np.array([[500, 100], [3, 2], [4, 2]])
    plan = training_plan(lengths, batch_tokens=40, accumulate=1, seed=0, epoch=0, world_size=1)
    assert [0] in [batch.tolist() for update in plan for row in update.micro_batches for batch in row]


def test_too_few_examples_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="5 examples cannot fill updates of 6 batches"):
        plan_of(lengths=MANY[:5], accumulate=3, world_size=2)
