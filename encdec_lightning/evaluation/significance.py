"""How far scores can be trusted: bootstrap intervals, and tests of the difference between two systems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import require

Aggregate = Callable[[NDArray[np.float64], int], NDArray[np.float64]]
"""(sums of statistics (..., K), number of examples) to values (..., M), as `Metric.aggregate`."""
SEED = 12345
"""sacrebleu's, whose tests with so many samples give the same p-values."""
RESAMPLES, TRIALS = 1000, 10_000
ROUNDING = 1e-9
AT_ONCE = 1 << 28
"""Draws of a randomization test that are made in one go, as sacrebleu makes them all: a byte each."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the second of two systems is above the first in each of a metric's M values; all arrays are (M,)."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    """The lower end of the 95% interval of the difference, by the paired bootstrap."""
    high: NDArray[np.float64]
    p_bootstrap: NDArray[np.float64]
    """The two-sided p-value of the paired bootstrap (Koehn 2004), in the form of Moses and sacrebleu."""
    p: NDArray[np.float64]
    """The two-sided p-value of approximate randomization (Riezler and Maxwell 2005)."""


def interval(
    statistics: NDArray[np.float64], aggregate: Aggregate, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper ends, (M,) each, of the intervals of a metric's M values.

    `statistics` is (N, K), a row per example. Each of the `samples` draws N examples with replacement; the ends are
    the quantiles that leave `level` of the drawn values between them. The same arguments give the same interval,
    whatever the global random state. One example gives an interval without width. Raises `UserErrors`.
    """
    require(
        ("statistics", statistics.shape, statistics.ndim == 2 and len(statistics) > 0, "expected (N, K) with N >= 1"),
        ("samples", samples, samples >= 1, "it must be at least 1"),
        ("level", level, 0 < level < 1, "it must lie between 0 and 1"),
    )
    values = aggregate(resampled_totals(statistics, samples, seed), len(statistics))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def resampled_totals(statistics: NDArray[np.float64], samples: int, seed: int) -> NDArray[np.float64]:
    """The sums of N rows of `statistics` (N, K) drawn with replacement, `samples` times; (samples, K).

    How often each row was drawn is a vector of multinomial weights (N,). One such vector at a time, so that
    100,000 examples need a few megabytes, and counted from drawn indices, which is faster than `Generator.multinomial`.
    """
    generator = np.random.default_rng(seed)
    count, width = statistics.shape
    totals = np.empty((samples, width), dtype=np.float64)
    for sample in range(samples):
        weights = np.bincount(generator.integers(count, size=count), minlength=count)
        totals[sample] = weights @ statistics
    return totals


def difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    aggregate: Aggregate,
    resamples: int = RESAMPLES,
    trials: int = TRIALS,
    seed: int = SEED,
) -> Difference:
    """The difference of two systems from their statistics (N, K) of the same examples in the same order.

    Of the same arguments it is the same. Raises `UserErrors` where the shapes differ or numbers make no sense.
    """
    require(
        ("statistics", second.shape, first.ndim == 2 and len(first) > 0, "expected (N, K) with N >= 1"),
        ("statistics", second.shape, first.shape == second.shape, f"both systems need the same shape, {first.shape}"),
        ("resamples", resamples, resamples >= 1, "it must be at least 1"),
        ("trials", trials, trials >= 1, "it must be at least 1"),
    )
    count = len(first)
    own = [aggregate(each.sum(axis=0)[None], count)[0] for each in (first, second)]
    found = own[1] - own[0]
    drawn = aggregate(resampled_totals(second, resamples, seed), count) - aggregate(
        resampled_totals(first, resamples, seed), count
    )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    sizes = np.abs(drawn)
    p_bootstrap = _p_value(sizes - sizes.mean(axis=0), np.abs(found))
    return Difference(found, low, high, p_bootstrap, randomization(first, second, aggregate, trials, seed))


def randomization(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    aggregate: Aggregate,
    trials: int = TRIALS,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """The p-values, (M,), under two systems that are alike: their outputs are exchanged at random by example."""
    count = len(first)
    generator = np.random.default_rng(seed)
    total = first.sum(axis=0) + second.sum(axis=0)
    sizes, left = [], trials
    while left:
        rows = min(left, max(1, AT_ONCE // count))
        kept = generator.integers(2, size=(rows, count), dtype=np.bool_)
        step = max(1, (1 << 24) // count)
        for begin in range(0, rows, step):  # as numbers they take eight times as much memory
            part = kept[begin : begin + step].astype(np.float64)
            one = part @ first + (1 - part) @ second
            sizes.append(np.abs(aggregate(one, count) - aggregate(total - one, count)))
        left -= rows
    found = aggregate(first.sum(axis=0)[None], count) - aggregate(second.sum(axis=0)[None], count)
    return _p_value(np.concatenate(sizes), np.abs(found[0]))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in their order: those below 0.05 hold together at that level.

    One that is NaN stays so, and is none of that number.
    """
    order = sorted((each for each in range(len(p_values)) if not math.isnan(p_values[each])), key=p_values.__getitem__)
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _p_value(drawn: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of drawn differences (D, M) that reach the found one, (M,), which counts as drawn too.

    sacrebleu counts those above it alone. That is the same but for ties, which are many where a metric takes few
    values; two systems that are equal would differ with certainty. A difference that has no value has no p-value.
    """
    reached = ~(drawn < found - ROUNDING * np.maximum(found, 1))  # a draw without a value may have reached it
    share: NDArray[np.float64] = (reached.sum(axis=0) + 1) / (len(drawn) + 1)
    return np.where(np.isfinite(found), share, np.nan)
