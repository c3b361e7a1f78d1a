"""The bootstrap against a slow, obvious loop and against what theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from encdec_lightning.errors import UserErrors
from encdec_lightning.evaluation.significance import interval, randomization, resampled_totals

Array = NDArray[np.float64]


def mean(total: Array, count: int) -> Array:
    return total / count


def ratio(total: Array, count: int) -> Array:
    """A corpus-level metric: one value of two sums, not a mean over examples."""
    return total[..., :1] / total[..., 1:]


def slow_interval(statistics: Array, aggregate: object, samples: int, seed: int, level: float) -> tuple[Array, Array]:
    """Draw rows, add them up one by one, aggregate each sample alone, sort, and read off the quantiles."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        total = np.zeros(statistics.shape[1])
        for row in generator.integers(len(statistics), size=len(statistics)):
            total += statistics[row]
        values.append(aggregate(total, len(statistics)))  # type: ignore[operator]
    ordered = np.sort(np.array(values), axis=0)
    low_place, high_place = (samples - 1) * (1 - level) / 2, (samples - 1) * (1 + level) / 2
    places = np.arange(samples)
    low = [np.interp(low_place, places, column) for column in ordered.T]
    high = [np.interp(high_place, places, column) for column in ordered.T]
    return np.array(low), np.array(high)


@pytest.mark.parametrize("aggregate", [mean, ratio])
@pytest.mark.parametrize(("count", "level"), [(1, 0.95), (2, 0.5), (23, 0.95), (40, 0.8)])
def test_equals_the_slow_loop(aggregate: object, count: int, level: float) -> None:
    statistics = np.random.default_rng(count).uniform(1, 2, size=(count, 2))
    low, high = interval(statistics, aggregate, samples=50, seed=3, level=level)  # type: ignore[arg-type]
    slow_low, slow_high = slow_interval(statistics, aggregate, samples=50, seed=3, level=level)
    np.testing.assert_allclose(low, slow_low, rtol=1e-12)
    np.testing.assert_allclose(high, slow_high, rtol=1e-12)


def test_every_sample_draws_exactly_n_examples_in_multinomial_proportion() -> None:
    totals = resampled_totals(np.eye(4), samples=5000, seed=0)
    np.testing.assert_array_equal(totals.sum(axis=1), 4)
    np.testing.assert_allclose(totals.mean(axis=0), 1, atol=0.05)
    np.testing.assert_allclose(totals.var(axis=0), 4 * 1 / 4 * 3 / 4, atol=0.05)


@pytest.mark.parametrize(("level", "quantile"), [(0.95, 1.959964), (0.8, 1.281552)])
def test_the_width_for_a_mean_is_that_of_normal_theory(level: float, quantile: float) -> None:
    statistics = np.random.default_rng(1).normal(50, 10, size=(1000, 1))
    low, high = interval(statistics, mean, samples=4000, level=level)
    error = statistics.std() / np.sqrt(len(statistics))
    assert low[0] == pytest.approx(statistics.mean() - quantile * error, abs=0.1 * error)
    assert high[0] == pytest.approx(statistics.mean() + quantile * error, abs=0.1 * error)


def test_95_of_100_intervals_hold_the_true_mean() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for repeat in range(400):
        low, high = interval(generator.normal(0, 1, size=(60, 1)), mean, samples=150, seed=repeat)
        covered += bool(low[0] <= 0 <= high[0])
    assert 0.90 <= covered / 400 <= 0.98


@settings(max_examples=30, deadline=None)
@given(
    statistics=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.floats(0, 1, width=32)
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_interval_lies_within_the_statistics(statistics: Array, seed: int) -> None:
    low, high = interval(statistics, mean, samples=20, seed=seed)
    assert low.shape == high.shape == (statistics.shape[1],)
    assert np.all(low <= high)
    assert np.all(statistics.min(axis=0) - 1e-9 <= low)
    assert np.all(high <= statistics.max(axis=0) + 1e-9)


def test_one_example_has_an_interval_without_width() -> None:
    low, high = interval(np.array([[0.25, 3.0]]), mean)
    np.testing.assert_array_equal(low, [0.25, 3.0])
    np.testing.assert_array_equal(high, [0.25, 3.0])


def test_the_seed_decides_and_the_global_generator_neither_helps_nor_moves() -> None:
    statistics = np.random.default_rng(4).normal(size=(30, 2))
    np.random.seed(0)
    first = interval(statistics, mean, samples=100)
    np.random.seed(1)
    before = np.random.get_state()
    second = interval(statistics, mean, samples=100)
    after = np.random.get_state()
    other = interval(statistics, mean, samples=100, seed=1)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_a_hundred_thousand_examples_need_little_memory() -> None:
    import tracemalloc

    statistics = np.ones((100_000, 3))
    tracemalloc.start()
    resampled_totals(statistics, samples=20, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("shape", "arguments", "sentence"),
    [
        ((0, 2), {}, r"statistics is \(0, 2\): expected \(N, K\) with N >= 1\."),
        ((5,), {}, r"statistics is \(5,\): expected"),
        ((5, 2), {"samples": 0}, r"samples is 0: it must be at least 1\."),
        ((5, 2), {"level": 0.0}, r"level is 0\.0: it must lie between 0 and 1\."),
        ((5, 2), {"level": 1.0}, r"level is 1\.0: "),
        ((5, 2), {"level": 95}, r"level is 95: "),
    ],
)
def test_wrong_arguments_are_named(shape: tuple[int, ...], arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserErrors, match=sentence):
        interval(np.ones(shape), mean, **arguments)  # type: ignore[arg-type]


def test_draws_that_are_summed_in_parts_are_all_of_them() -> None:
    count, trials = 60_000, 300  # 279 draws are summed at a time
    first, second = np.random.default_rng(1).normal(size=(2, count, 1))
    found = randomization(first, second, mean, trials, seed=3)
    generator, gap = np.random.default_rng(3), (first - second)[:, 0]
    kept = generator.integers(2, size=(trials, count), dtype=np.bool_)
    drawn = np.array([abs(np.where(row, gap, -gap).sum()) / count for row in kept])
    assert found[0] == ((drawn >= abs(gap.mean()) - 1e-9).sum() + 1) / (trials + 1)
