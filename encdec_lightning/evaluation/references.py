"""References of which a metric can make nothing: a few score 0 and are counted, many are a mistake in the task.

A metric knows them by a method `unscorable(reference) -> bool`, which is optional, and says in `compares` (a string,
optional too) what in a text it compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from encdec_lightning.errors import UserError, reason
from encdec_lightning.evaluation.metric import Metric
from encdec_lightning.evaluation.registry import Spec, load_metric, title

MOST = 0.5
"""From this share of unscorable references on, a metric does not fit the data."""


def unscorable(metric: Metric, references: Iterable[str]) -> int:
    """How many of the references the metric cannot compare; 0 for a metric that does not know."""
    test: Callable[[str], bool] | None = getattr(metric, "unscorable", None)
    return 0 if test is None else sum(map(test, references))


def check_references(metrics: Sequence[Spec], split: str, references: Callable[[], Iterable[str]]) -> list[UserError]:
    """What is wrong with a split's references for metrics given by name, before anything is predicted for them.

    `references` gives them one by one, and is called once for each metric that knows which it can compare.
    """
    found = []
    for spec in metrics:
        metric, name = load_metric(spec), title(spec)
        if hasattr(metric, "unscorable"):
            try:
                problem = _problem(name, metric, split, list(references()))
            except Exception as error:
                problem = UserError("task.metrics", name, f"its method unscorable failed ({reason(error)})")
            found += [problem] if problem else []
    return found


def _problem(name: str, metric: Metric, split: str, references: list[str]) -> UserError | None:
    count = unscorable(metric, references)
    if count < max(1, MOST * len(references)):
        return None
    first = next(each for each in references if unscorable(metric, [each]))
    compares = f" (it compares {metric.compares})" if hasattr(metric, "compares") else ""
    return UserError(
        "task.metrics",
        name,
        f"it can compare nothing in {count:,} of {len(references):,} {split} references, such as "
        f"{first[:40]!r}{compares}; choose another metric, such as bleu where spaces separate words, or exact_match",
    )
