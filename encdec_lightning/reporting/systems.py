"""Files of predictions side by side: scores with intervals, and how far each is from the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.comparison import Comparison, compare
from encdec_lightning.evaluation.metric import Score
from encdec_lightning.evaluation.registry import Spec, load_metric, score_all, title
from encdec_lightning.evaluation.significance import holm
from encdec_lightning.records import Prediction


@dataclass(frozen=True)
class System:
    """What was found for one file."""

    name: str
    scores: Mapping[str, Score]
    failed: Mapping[str, str]
    """Why a score is missing."""
    differences: Mapping[str, Comparison]
    """From the first system; none for that one itself."""
    p_values: Mapping[str, float]
    """Corrected for the number of all comparisons (Holm)."""


def systems(files: Mapping[str, Sequence[Prediction]], metrics: Sequence[Spec]) -> list[System]:
    """The scores of each file's predictions. Raises `UserError` where the files hold other examples or references."""
    names = [*files]
    for spec in metrics:
        for name in names:
            if getattr(load_metric(spec), "needs_source", False) and not any(each.source for each in files[name]):
                expected = f"it compares with the sources, and {name} has none: sources=<file> gives them"
                raise UserError("metrics", title(spec), expected)
    scored = {name: score_all(files[name], metrics) for name in names}
    found: dict[tuple[str, str], Comparison] = {}
    for name in names[1:]:
        for spec in metrics:
            metric = load_metric(spec)
            if not {*metric.names} & {*scored[name][1], *scored[names[0]][1]}:
                own = compare(files[names[0]], files[name], metric)
                found |= {(name, score): each for score, each in own.items()}
    corrected = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    return [
        System(
            name,
            *scored[name],
            {score: each for (whose, score), each in found.items() if whose == name},
            {score: each for (whose, score), each in corrected.items() if whose == name},
        )
        for name in names
    ]


def systems_table(found: Sequence[System]) -> Table:
    """A column for each system: value and interval, and below them the difference from the first with its p-value."""
    names = list(dict.fromkeys(name for each in found for name in [*each.scores, *each.failed]))
    table = Table(title="Scores with 95% intervals", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for header in _titles([each.name for each in found]):
        table.add_column(escape(header), justify="right", overflow="fold")
    for name in names:
        table.add_row(name, *(_cell(each, name) for each in found))
    return table


def _titles(names: Sequence[str]) -> list[str]:
    """The names without the folders and endings that all of them have."""
    parts = [PurePath(name).parts for name in names]
    if len(parts) == 1:
        return [parts[0][-1]]
    first = next((i for i, each in enumerate(zip(*parts, strict=False)) if len({*each}) > 1), 0)
    last = next((i for i, each in enumerate(zip(*map(reversed, parts), strict=False)) if len({*each}) > 1), 0)
    return [str(PurePath(*each[first : len(each) - last])) for each in parts]


def _cell(system: System, name: str) -> str:
    if name not in system.scores:
        return "-"
    score = system.scores[name]
    text = f"{score.value:.2f} [dim]{score.low:.2f}-{score.high:.2f}[/]"
    if name in system.differences:
        told = system.differences[name]
        p_value = system.p_values[name]
        text += f"\n{told.difference:+.2f} [dim]{told.low:+.2f} to {told.high:+.2f}[/] p={_p(p_value)}"
    return text


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
