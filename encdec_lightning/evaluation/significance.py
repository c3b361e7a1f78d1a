"""How far a score can be trusted: percentile bootstrap intervals over examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import require

Aggregate = Callable[[NDArray[np.float64], int], NDArray[np.float64]]
"""(sums of statistics (..., K), number of examples) to values (..., M), as `Metric.aggregate`."""


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
