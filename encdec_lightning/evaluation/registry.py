"""Which metrics there are: by name, with arguments, or of a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.dotted import NotImported, imported
from encdec_lightning.errors import UserError, UserErrors, did_you_mean, one_of, reason
from encdec_lightning.evaluation.bleu import Bleu, NltkBleu, UncasedBleu
from encdec_lightning.evaluation.chrf import ChrF
from encdec_lightning.evaluation.descriptive import Length, NovelNgrams, Repetition
from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.evaluation.metric import Metric, Score, score
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.evaluation.sari import Sari, StandardSari
from encdec_lightning.evaluation.ter import Ter
from encdec_lightning.records import Prediction

METRICS: dict[str, type[Metric] | str] = {
    "rouge": Rouge,
    "exact_match": ExactMatch,
    "sari": Sari,
    "sari_standard": StandardSari,
    "bleu": Bleu,
    "bleu_uncased": UncasedBleu,
    "bleu_nltk": NltkBleu,
    "chrf": ChrF,
    "ter": Ter,
    "length": Length,
    "novel_ngrams": NovelNgrams,
    "repetition": Repetition,
    "bertscore": "encdec_lightning.composition.bert_score.BertScore",
}
"""A metric's class by its name, or the dotted path of one that needs a model, which is imported when it is used."""
NAME, LABEL = "name", "label"
"""Of a metric with arguments: which it is, and what is added to the names of its values."""

Spec = str | Mapping[str, Any]
"""A metric's name, or a mapping of `name`, perhaps `label`, and arguments: {name: rouge, tokenizer: unicode}."""


def title(spec: Spec) -> str:
    """A metric's name with its label."""
    if isinstance(spec, str):
        return spec
    return "_".join(str(spec[key]) for key in (NAME, LABEL) if key in spec)


def score_all(predictions: Sequence[Prediction], metrics: Sequence[Spec]) -> tuple[dict[str, Score], dict[str, str]]:
    """The scores of some metrics; and of a metric that fails, under each of its names, why.

    Whatever a metric raises costs its own values alone.
    """
    scores: dict[str, Score] = {}
    failed: dict[str, str] = {}
    for spec in metrics:
        names: Sequence[str] = (title(spec),)
        try:
            metric = load_metric(spec)
            names = metric.names
            scores |= score(predictions, metric)
        except (Exception, SystemExit) as error:
            failed |= dict.fromkeys(names, reason(error))
    return scores, failed


def check_metrics(specs: Sequence[Spec]) -> list[UserError]:
    """What is wrong with some metrics: each alone, and two whose values have one name."""
    found: list[UserError] = []
    owners: dict[str, Spec] = {}
    for spec in specs:
        try:
            names = load_metric(spec).names
        except UserError as error:
            found.append(error)
            continue
        twice = [name for name in names if name in owners]
        if twice:
            expected = (
                f"{title(owners[twice[0]])} gives {twice[0]} too: give one of them a label, {{name: ..., label: mine}}"
            )
            found.append(UserError("task.metrics", title(spec), expected))
        owners |= dict.fromkeys(names, spec)
    return found


def load_metric(spec: Spec) -> Metric:
    """A metric of `METRICS`, or of your own class at the dotted path `package.module.Class`, with its arguments.

    Raises `UserError` when there is no such metric, it is none, or does not take the arguments.
    """
    if isinstance(spec, str):
        return _made(spec, _factory(spec), {})
    name = spec.get(NAME) if isinstance(spec, Mapping) else None
    if not isinstance(name, str):
        expected = "a metric is a name, or a mapping with it and arguments, such as {name: rouge, tokenizer: unicode}"
        raise UserError("task.metrics", spec, expected)
    label = spec.get(LABEL)
    metric = _made(name, _factory(name), {key: value for key, value in spec.items() if key not in (NAME, LABEL)})
    if label is None:
        return metric
    if not isinstance(label, str) or not label.isidentifier():
        raise UserError("task.metrics", f"{name}.label", f"{label!r} must be a word of letters, digits and _")
    return _Labelled(metric, label)


class _Labelled:
    """A metric whose values have longer names."""

    def __init__(self, metric: Metric, label: str) -> None:
        self._metric = metric
        self._own = {name: f"{name}_{label}" for name in metric.names}
        self.names, self.signature = tuple(self._own.values()), metric.signature
        told: object = getattr(metric, "higher_is_better", None)
        if isinstance(told, Mapping):
            told = {self._own[name]: value for name, value in told.items() if name in self._own}
        self.higher_is_better: Any = told

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        return self._metric.statistics(prediction)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return self._metric.aggregate(total, count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metric, name)  # what a metric need not have


def _factory(name: str) -> object:
    """What makes the metric of a name or dotted path; raises `UserError`."""
    if isinstance(known_class := METRICS.get(name), type):
        return known_class
    if known_class is not None:
        return imported(known_class)
    known = f"{', '.join(METRICS)} or the dotted path package.module.Class of your own metric"
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise UserError("task.metrics", name, f"expected {known}{did_you_mean(name, METRICS)}")
    try:
        factory: object = imported(name)
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
    return factory


def _made(name: str, factory: object, arguments: Mapping[str, Any]) -> Metric:
    """The metric that the class `factory` makes; `name` is what the user wrote. Nothing but a class is called."""
    try:
        if not isinstance(factory, type):
            raise TypeError("it is no class")
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UserError("task.metrics", name, "expected a class of a metric") from error
    unknown = [key for key in arguments if key not in taken]
    if unknown:
        takes = f"{one_of(taken)}{did_you_mean(unknown[0], taken)}" if taken else "it takes no arguments"
        raise UserError("task.metrics", f"{name}.{unknown[0]}", takes)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        expected = f"its class needs other arguments ({error}): give them as {{name: {name}, ...}}"
        raise UserError("task.metrics", name, expected) from error
    try:
        metric: Metric = factory(**arguments)
    except (UserError, UserErrors) as errors:
        first = errors if isinstance(errors, UserError) else errors.problems[0]
        raise UserError("task.metrics", f"{name}.{first.field}", f"{first.value!r}: {first.expected}") from errors
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
