"""Which rows differ from a chosen one by more than chance: a paired test for each score, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import UserError, reason
from encdec_lightning.evaluation.baselines import BASELINES, baseline_predictions
from encdec_lightning.evaluation.comparison import aligned
from encdec_lightning.evaluation.metric import Metric, statistics_of
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import TRIALS, holm, randomization
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.report.rows import Row, Section
from encdec_lightning.reporting.results import splits_of


def compare_rows(section: Section, chosen: str, trials: int = TRIALS) -> list[str]:
    """Compare each row with the chosen one; gives a sentence on each that could not be.

    `chosen` is a run's folder or its name, a baseline's label, or the value of an option that one row alone has. Where
    a row has several seeds, their statistics are averaged for each example: the examples are what is drawn anew.
    Raises `UserError` where no row, or more than one, is meant.
    """
    section.against = _place(section, chosen)
    metrics, said = _metrics(section)
    outputs: list[list[list[Prediction]] | None] = []
    for row in section.rows:
        try:
            outputs.append(_predictions(section, row))
        except UserError as problem:
            outputs.append(None)
            said.append(f"{describe(section, row)} is not compared: {problem}")
    reference = outputs[section.against]
    if reference is None:
        return said
    found: dict[tuple[int, str], float] = {}
    for number, own in enumerate(outputs):
        if own is None or number == section.against:
            continue
        for spec, metric in metrics:
            try:
                one, two = (_mean_statistics(each, metric, reference[0]) for each in (reference, own))
                p_values = randomization(one, two, metric.aggregate, trials)
            except UserError as problem:  # the texts are not of the same examples, which no metric changes
                said.append(f"{describe(section, section.rows[number])} is not compared: {problem}")
                break
            except Exception as error:  # a metric of the user's own
                said.append(f"{describe(section, section.rows[number])} is not compared by {spec}: {reason(error)}")
                continue
            told = zip(metric.names, p_values.tolist(), strict=True)
            found |= {(number, name): p for name, p in told if math.isfinite(p)}
    section.p_values = dict(zip(found, holm([*found.values()]), strict=True))
    return said


def _metrics(section: Section) -> tuple[list[tuple[Any, Metric]], list[str]]:
    """The metrics of a section with their specs, and a sentence on each that cannot be loaded here."""
    found, said = [], []
    for spec in _specs(section):
        try:
            found.append((spec, load_metric(spec)))
        except UserError as problem:
            said.append(f"Nothing is compared by {spec}: {problem}")
    return found, said


def describe(section: Section, row: Row) -> str:
    """A row in words."""
    names = (name.rpartition(".")[2] for name in section.options)
    return (
        row.label or ", ".join(f"{name}={value}" for name, value in zip(names, row.options, strict=True)) or "the run"
    )


def _place(section: Section, chosen: str) -> int:
    tests: list[Callable[[Row], bool]] = [
        lambda row: any(chosen in (str(each.run.folder), each.run.folder.name) for each in row.runs),
        lambda row: any(each.run.folder.samefile(chosen) for each in row.runs if each.run.folder.exists()),
        lambda row: chosen in (row.label, row.label.replace(" ", "_")),
        lambda row: chosen in row.options,
        lambda row: chosen in describe(section, row).split(", "),
    ]
    for test in tests:
        try:
            places = [number for number, row in enumerate(section.rows) if test(row)]
        except OSError:
            continue
        if len(places) == 1:
            return places[0]
    known = "; ".join(describe(section, row) for row in section.rows)
    raise UserError("--against", chosen, f"it must mean one row alone: {known}; or give the folder of a run")


def _specs(section: Section) -> Sequence[str]:
    runs = [each for row in section.rows for each in row.runs]
    return next((each.options["task.metrics"] for each in runs if each.options.get("task.metrics")), None) or ["rouge"]


def _predictions(section: Section, row: Row) -> list[list[Prediction]]:
    """What each of a row's runs that have been tested has predicted; raises `UserError` where there is nothing."""
    if not row.label:
        found = [each.run.predictions() for each in row.runs if each.tested]
        if not found or not all(found):
            raise UserError("predictions", [], "its run has none" if len(row.runs) == 1 else "none of its runs has any")
        return found
    assert row.scored_by is not None  # it is a baseline's
    run = row.scored_by.run
    name = next(name for name in BASELINES if name.replace("_", " ") == row.label)
    return [baseline_predictions(name, run.predictions(), splits_of(run))]


def _mean_statistics(runs: list[list[Prediction]], metric: Metric, like: list[Prediction]) -> NDArray[np.float64]:
    """The statistics of each example, averaged over runs; in the order of `like`."""
    found: NDArray[np.float64] = np.mean(
        [*map(partial(statistics_of, metric=metric), (aligned(like, each) for each in runs))], axis=0
    )
    return found
