"""Runs in, rows out: what sets them apart as columns, seeds folded into mean and deviation, test sets apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from encdec_lightning.reporting.overview import Overview, differing, option_key, option_texts

SEED = "seed"
COSTS = {
    "parameters": "parameters",
    "train/flops": "FLOPs",
    "train/seconds": "seconds",
    "train/tokens_per_second": "tokens/s",
}
"""What a run has cost, by its name in metrics.json: the column."""


@dataclass(frozen=True)
class Value:
    """A number of a row: of one run with its interval, or the mean over several runs."""

    mean: float
    deviation: float | None = None
    """The standard deviation over runs, of two or more."""
    low: float | None = None
    """The ends of the 95% interval over examples, of one run."""
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """Runs that differ by their seeds alone, or what stands beside them: a baseline."""

    label: str
    """Of a baseline; empty for runs."""
    options: tuple[str, ...]
    """Of the section's `options`, as text."""
    runs: tuple[Overview, ...]
    state: str
    """`finished`, or how many runs are not, and what they are."""
    scores: Mapping[str, Value]
    costs: Mapping[str, Value]
    scored_by: Overview | None = None
    """The run that has scored a baseline, whose examples these are."""


@dataclass
class Section:
    """The rows of one test set."""

    title: str
    examples: int | None
    options: list[str]
    """Paths of the options in which the runs differ."""
    scores: list[str]
    """Names of the scores."""
    better: Mapping[str, Literal["min", "max"]]
    """For a score whether less or more is better, where its metric says so."""
    signatures: Mapping[str, str]
    rows: list[Row]
    against: int | None = None
    """The row that others are compared with."""
    p_values: dict[tuple[int, str], float] = field(default_factory=dict)
    """By row and score, corrected for their number."""
    printed: dict[tuple[int, str], float] = field(default_factory=dict)
    """By row and score, what the paper prints."""
    printed_from: str | None = None
    """Where it prints that."""

    def best(self, name: str) -> set[int]:
        """The rows with the best value of a score, as it is printed."""
        values = {i: round(row.scores[name].mean, 2) for i, row in enumerate(self.rows) if name in row.scores}
        models = {i: value for i, value in values.items() if not self.rows[i].label}
        if name not in self.better or len(models) < 2:
            return set()
        top = (max if self.better[name] == "max" else min)(models.values())
        return {i for i, value in models.items() if value == top}


def sections(runs: Sequence[tuple[Overview, Mapping[str, Any]]]) -> list[Section]:
    """A section for each test set; `runs` are what folders tell, with their metrics.

    Runs that have not been tested are rows in the section of their test file.
    """
    groups: dict[str, list[tuple[Overview, Mapping[str, Any]]]] = {}
    prints = {_file(each): metrics["data/test_fingerprint"] for each, metrics in reversed(runs) if _tested(metrics)}
    whole: dict[Any, int] = {}
    for _, metrics in runs:
        tested = metrics.get("test/examples")
        if isinstance(tested, int):
            key = metrics.get("data/test_fingerprint")
            whole[key] = max(tested, whole.get(key, 0))
    for each, metrics in runs:
        key = metrics.get("data/test_fingerprint") or prints.get(_file(each)) or _file(each)
        if _tested(metrics) and metrics.get("test/examples") != whole.get(key):  # by trainer.limit_test_batches
            key = f"{key}, {metrics.get('test/examples')} examples"
        groups.setdefault(str(key), []).append((each, metrics))
    return [_section(group) for group in groups.values()]


def _section(group: Sequence[tuple[Overview, Mapping[str, Any]]]) -> Section:
    overviews = [each for each, _ in group]
    options = [name for name in differing([each for each in overviews if each.options]) if name != SEED]
    scores: dict[str, str] = {}
    better: dict[str, Literal["min", "max"]] = {}
    for _, metrics in group:
        for name in _scored(metrics):
            scores.setdefault(name, str(metrics.get(f"test/{name}/signature", "")))
            if metrics.get(f"test/{name}/better") in ("min", "max"):
                better[name] = metrics[f"test/{name}/better"]
    columns = [option_texts(overviews, name) for name in options]
    folded: dict[tuple[str, ...], list[int]] = {}
    for number, each in enumerate(overviews):
        alone = "" if each.options else str(each.run.folder)  # what nothing is known of is nobody's other seed
        folded.setdefault((alone, *(option_key(each, name) for name in options)), []).append(number)
    rows = [
        _row("", tuple(column[members[0]] for column in columns), [group[at] for at in members], "test", scores)
        for members in folded.values()
    ]
    rows.sort(key=lambda row: tuple(map(_natural, row.options)))
    blank = ("",) * len(options)
    known = dict.fromkeys(key.split("/")[1] for _, metrics in group for key in metrics if key.startswith("baseline/"))
    baselines = [
        _row(name.replace("_", " "), blank, _having(group, name), f"baseline/{name}", scores) for name in known
    ]
    counts = [metrics["test/examples"] for _, metrics in group if "test/examples" in metrics]
    named = next((file for each in overviews if (file := _file(each))), "an unknown test set")
    count = counts[0] if counts else None
    return Section(named, count, options, [*scores], better, scores, [*baselines, *rows])


def _having(
    group: Sequence[tuple[Overview, Mapping[str, Any]]], baseline: str
) -> Sequence[tuple[Overview, Mapping[str, Any]]]:
    """The first of a section's runs that has scored a baseline."""
    return [each for each in group if any(key.startswith(f"baseline/{baseline}/") for key in each[1])][:1]


def _row(
    label: str,
    options: tuple[str, ...],
    members: Sequence[tuple[Overview, Mapping[str, Any]]],
    system: str,
    scores: Iterable[str],
) -> Row:
    overviews = tuple(each for each, _ in members)
    states = [each.state for each in overviews if each.state != "finished"]
    state = "finished"
    if states:
        told = ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states))
        state = states[0] if len(overviews) == 1 else f"{told} of {len(overviews)}"
    metrics = [each for _, each in members]
    found = {name: value for name in scores if (value := _value(metrics, f"{system}/{name}")) is not None}
    costs = {name: value for name in COSTS if (value := _value(metrics, name)) is not None}
    if label:
        return Row(label, options, (), "", found, {}, overviews[0])
    return Row(label, options, overviews, state, found, costs)


def _value(metrics: Sequence[Mapping[str, Any]], key: str) -> Value | None:
    """The number under a key, of the runs that have it."""
    having = [(number, each) for each in metrics if (number := finite_number(each.get(key))) is not None]
    if not having:
        return None
    if len(having) > 1:
        values = [number for number, _ in having]
        return Value(statistics.fmean(values), statistics.stdev(values))
    [(number, only)] = having
    low, high = (finite_number(only.get(f"{key}/{end}")) for end in ("low", "high"))
    return Value(number, None, low, high) if low is not None and high is not None else Value(number)


def finite_number(value: object) -> float | None:
    """The value if it is a number that is neither infinite nor NaN, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _scored(metrics: Mapping[str, Any]) -> list[str]:
    return [key.split("/")[1] for key in metrics if key.startswith("test/") and key.endswith("/signature")]


def _tested(metrics: Mapping[str, Any]) -> bool:
    return "data/test_fingerprint" in metrics


def _file(each: Overview) -> str:
    return str(each.options.get("task.test") or each.options.get("task.validation") or "")


def _natural(value: str) -> tuple[int, float, str]:
    """A key that sorts numbers by size, before other texts."""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value
