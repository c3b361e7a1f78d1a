"""What a metric is, and how a set of predictions is scored with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.significance import interval
from encdec_lightning.records import Prediction


class Metric(Protocol):
    """Statistics of each example, and values from their sum: all that scores and intervals need.

    A metric that can make nothing of some references may also have `unscorable`, see references.py. One that is faster
    with many examples at once may also have `statistics_of(predictions)`, the rows (N, K) that `statistics` would give.
    """

    names: tuple[str, ...]
    """A name for each value, such as ("rouge1", "rouge2", "rougeL")."""
    signature: str
    """What exactly was computed, the library's version included."""

    @property
    def higher_is_better(self) -> bool | Mapping[str, bool]:
        """Whether more of a value is better: for all names, or for each; a plain attribute will do.

        A class of your own may leave it out; `task.monitor_mode` must then be given where one of its values is
        monitored.
        """
        ...

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """What one example adds to the sum; (K,), K the same for every example."""
        ...

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Values (..., len(names)) from sums of statistics (..., K) over `count` examples; in percent where usual."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """A value with the ends of its bootstrap interval, in the metric's unit, and what exactly was computed."""

    value: float
    low: float
    high: float
    signature: str
    better: Literal["min", "max"] | None = None
    """Whether less or more of it is better, where the metric says so."""


def direction(metric: Metric, name: str) -> Literal["min", "max"] | None:
    """Whether less or more of one of the metric's values is better, "min" or "max"; None where the metric says nothing.

    Raises `UserError` when `higher_is_better` is neither a bool nor a bool for each name.
    """
    told: object = getattr(metric, "higher_is_better", None)
    if isinstance(told, Mapping):
        told = told.get(name)
    if told is None:
        return None
    if not isinstance(told, bool):
        expected = "its higher_is_better must be true, false, or one of them for each name"
        raise UserError("task.metrics", type(metric).__name__, expected)
    return "max" if told else "min"


def score(
    predictions: Sequence[Prediction], metric: Metric, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Score]:
    """A `Score` for each of the metric's names, with bootstrap intervals of that level from that many samples.

    The order of the predictions does not matter. Raises `UserError` when there are none, or when the metric's arrays
    do not have the shapes that `Metric` promises.
    """
    statistics = statistics_of(sorted(predictions, key=lambda one: one.id), metric)
    # One row more than there are names, so that an aggregate that indexes the wrong axis shows in the shape.
    copies = np.tile(statistics.sum(axis=0), (len(metric.names) + 1, 1))
    with np.errstate(all="ignore"):  # a ratio of zeros is nan, and that is said where values are written
        values = np.asarray(metric.aggregate(copies, len(statistics)))
    expected = (len(copies), len(metric.names))
    if values.shape != expected:
        raise UserError(
            "task.metrics",
            type(metric).__name__,
            f"its aggregate made {values.shape} of sums {copies.shape}; expected {expected}, a value for each name",
        )
    with np.errstate(all="ignore"):
        low, high = interval(statistics, metric.aggregate, samples=samples, seed=seed, level=level)
    return {
        name: Score(
            float(values[0, i]), float(low[i]), float(high[i]), f"{name}|{metric.signature}", direction(metric, name)
        )
        for i, name in enumerate(metric.names)
    }


def statistics_of(predictions: Sequence[Prediction], metric: Metric) -> NDArray[np.float64]:
    """What each prediction adds to the sum, (N, K), in their order; raises `UserError` as `score` does."""
    if not predictions:
        raise UserError("predictions", [], "expected at least one prediction to score")
    together = getattr(metric, "statistics_of", None)
    found = [metric.statistics(one) for one in predictions] if together is None else together(predictions)
    rows = [np.asarray(row, np.float64) for row in found]
    if len(rows) != len(predictions) or rows[0].ndim != 1 or any(row.shape != rows[0].shape for row in rows):
        shapes = ", ".join(map(str, sorted({row.shape for row in rows})))
        raise UserError(
            "task.metrics",
            type(metric).__name__,
            f"its statistics must be vectors of one length, and their shapes are {shapes}",
        )
    return np.stack(rows)
