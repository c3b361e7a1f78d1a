"""What a metric is, which metrics there are, and how a set of predictions is scored with one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.dotted import NotImported, imported
from encdec_lightning.errors import UserError, did_you_mean, reason
from encdec_lightning.evaluation.bleu import Bleu, uncased_bleu
from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.evaluation.sari import Sari
from encdec_lightning.evaluation.significance import interval
from encdec_lightning.records import Prediction


class Metric(Protocol):
    """Statistics of each example, and values from their sum: all that scores and intervals need.

    A metric that can make nothing of some references may also have `unscorable`, see references.py.
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


METRICS: dict[str, Callable[[], Metric]] = {
    "rouge": Rouge,
    "exact_match": ExactMatch,
    "sari": Sari,
    "bleu": Bleu,
    "bleu_uncased": uncased_bleu,
}


@dataclass(frozen=True, slots=True)
class Score:
    """A value with the ends of its bootstrap interval, in the metric's unit, and what exactly was computed."""

    value: float
    low: float
    high: float
    signature: str


def score_all(predictions: Sequence[Prediction], metrics: Sequence[str]) -> tuple[dict[str, Score], dict[str, str]]:
    """The scores of metrics given by name; and of a metric that fails, under each of its names, why.

    Whatever a metric raises costs its own values alone.
    """
    scores: dict[str, Score] = {}
    failed: dict[str, str] = {}
    for name in metrics:
        names: Sequence[str] = (name,)
        try:
            metric = load_metric(name)
            names = metric.names
            scores |= score(predictions, metric)
        except (Exception, SystemExit) as error:
            failed |= dict.fromkeys(names, reason(error))
    return scores, failed


def load_metric(name: str) -> Metric:
    """The metric of that name in `METRICS`, or of your own class at the dotted path `package.module.Class`.

    The class is called without arguments. Raises `UserError` when there is no such metric or it is none.
    """
    if name in METRICS:
        return METRICS[name]()
    known = f"{', '.join(METRICS)} or the dotted path package.module.Class of your own metric"
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise UserError("task.metrics", name, f"expected {known}{did_you_mean(name, METRICS)}")
    try:
        factory = imported(name)
    except NotImported as error:
        module, cause = error.module_name, error.cause
        if error.module is not None:
            own = name.removeprefix(f"{module}.")
            expected = f"the module {module} has no {own}{did_you_mean(own, vars(error.module))}"
        elif isinstance(cause, ImportError):
            expected = f"{module} cannot be imported ({cause}); is its folder on PYTHONPATH? Expected {known}"
            expected += did_you_mean(name, METRICS)
        else:
            expected = f"the module {module} cannot be imported ({reason(cause)})"
        raise UserError("task.metrics", name, expected) from cause
    return _made(name, factory)


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


def _made(name: str, factory: object) -> Metric:
    """The metric that the class `factory` makes; `name` is what the user wrote. Nothing but a class is called."""
    try:
        if not isinstance(factory, type):
            raise TypeError("it is no class")
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        raise UserError("task.metrics", name, "expected a class that can be called without arguments") from error
    try:
        metric: Metric = factory()
    except Exception as error:
        raise UserError("task.metrics", name, f"it cannot be made ({reason(error)})") from error
    lacking = [part for part in ("names", "signature", "statistics", "aggregate") if not hasattr(metric, part)]
    if lacking:
        needs = "a metric has names, signature, statistics(prediction) and aggregate(total, count)"
        raise UserError("task.metrics", name, f"it has no {', '.join(lacking)}; {needs}")
    names: object = metric.names
    if not (isinstance(names, tuple) and names and all(isinstance(value, str) for value in names)):
        raise UserError("task.metrics", name, f"its names must be a tuple of strings, not {names!r}")
    return metric


def score(
    predictions: Sequence[Prediction], metric: Metric, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Score]:
    """A `Score` for each of the metric's names, with bootstrap intervals of that level from that many samples.

    The order of the predictions does not matter. Raises `UserError` when there are none, or when the metric's arrays
    do not have the shapes that `Metric` promises.
    """
    if not predictions:
        raise UserError("predictions", [], "expected at least one prediction to score")
    rows = [np.asarray(metric.statistics(one), np.float64) for one in sorted(predictions, key=lambda one: one.id)]
    if rows[0].ndim != 1 or any(row.shape != rows[0].shape for row in rows):
        shapes = ", ".join(map(str, sorted({row.shape for row in rows})))
        raise UserError(
            "task.metrics",
            type(metric).__name__,
            f"its statistics must be vectors of one length, and their shapes are {shapes}",
        )
    statistics = np.stack(rows)
    # One row more than there are names, so that an aggregate that indexes the wrong axis shows in the shape.
    copies = np.tile(statistics.sum(axis=0), (len(metric.names) + 1, 1))
    with np.errstate(all="ignore"):  # a ratio of zeros is nan, and that is said where values are written
        values = np.asarray(metric.aggregate(copies, len(rows)))
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
        name: Score(float(values[0, i]), float(low[i]), float(high[i]), f"{name}|{metric.signature}")
        for i, name in enumerate(metric.names)
    }
