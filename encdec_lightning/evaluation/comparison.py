"""Two systems' predictions for the same examples in, the difference of their scores out, for any metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import Metric, statistics_of
from encdec_lightning.evaluation.significance import RESAMPLES, SEED, TRIALS, difference
from encdec_lightning.records import Prediction

NAMED = 3
"""Ids that a sentence names at most."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one value: how far the second system is above the first, in the metric's unit."""

    first: float
    second: float
    difference: float
    low: float
    """The ends of the 95% interval of the difference."""
    high: float
    p: float
    """Of approximate randomization, two-sided."""
    p_bootstrap: float
    signature: str


NUMBERS = ("first", "second", "difference", "low", "high", "p", "p_bootstrap")


def compare(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    metric: Metric,
    resamples: int = RESAMPLES,
    trials: int = TRIALS,
    seed: int = SEED,
) -> dict[str, Comparison]:
    """A `Comparison` for each of a metric's names, from so many resamples and trials.

    The examples are matched by id, and come in the order of the first system's. Raises `UserError` where the systems
    have other examples or references.
    """
    matched = aligned(first, second)
    one, two = (statistics_of(each, metric) for each in (first, matched))
    found = difference(one, two, metric.aggregate, resamples, trials, seed)
    own = [metric.aggregate(each.sum(axis=0)[None], len(each))[0] for each in (one, two)]
    numbers = [*own, found.value, found.low, found.high, found.p, found.p_bootstrap]
    columns: list[list[Any]] = np.stack(numbers, axis=1).tolist()
    return {
        name: Comparison(**dict(zip(NUMBERS, row, strict=True)), signature=f"{name}|{metric.signature}")
        for name, row in zip(metric.names, columns, strict=True)
    }


def aligned(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[Prediction]:
    """The second system's predictions in the order of the first's; raises `UserError` where they do not match."""
    by_id = {each.id: each for each in second}
    for lacking, which in (
        ([each.id for each in first if each.id not in by_id], "the first alone has"),
        (sorted(by_id.keys() - {each.id for each in first}), "the second alone has"),
    ):
        if lacking:
            more = f" and {len(lacking) - NAMED:,} more" if len(lacking) > NAMED else ""
            expected = (
                f"both systems must have predicted the same examples, and {which} {', '.join(lacking[:NAMED])}{more}"
            )
            raise UserError("predictions", f"{len(first):,} and {len(second):,} examples", expected)
    for each in (first, second):
        if len({prediction.id for prediction in each}) != len(each):
            raise UserError("predictions", f"{len(each):,} examples", "an id occurs twice")
    found = [by_id[each.id] for each in first]
    other = [one.id for one, two in zip(first, found, strict=True) if {*one.references} != {*two.references}]
    if other:
        expected = f"both systems must be scored against the same references, which differ for {len(other):,} examples"
        raise UserError("predictions", other[0], expected)
    return found
