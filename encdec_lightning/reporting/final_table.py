"""A finished run, as a person wants to see it: scores, some predictions, where everything is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from encdec_lightning.errors import UserError
from encdec_lightning.reporting.results import remarks
from encdec_lightning.run import Run

SAMPLES = 5
LABELS = {"test": "this model", "control": "sources permuted"}


@dataclass(frozen=True)
class Cell:
    """A value of the table of scores, as text; both empty where the system has no such value."""

    value: str = ""
    interval: str = ""
    complete: bool = True
    """Whether nothing is missing: the value is a number, and so are the ends of the interval that it should have."""


@dataclass(frozen=True)
class Row:
    """A system's row in the table of scores."""

    label: str
    cells: list[Cell]
    is_model: bool
    """Whether the system is the model, neither a baseline nor the control."""


def show(run: Run, console: Console | None = None) -> None:
    """Print a run's table of scores, five sampled predictions, and its files."""
    console = console or Console(emoji=False)
    metrics = run.metrics()
    console.print(score_table(metrics, console.width))
    for line in remarks(metrics):
        console.print(line, highlight=False, markup=False)
    speed = "{train/seconds:,.0f} s of training, {train/tokens_per_second:,.0f} tokens/s, {train/examples:,} examples"
    if "train/seconds" in metrics:
        console.print(speed.format_map(metrics), highlight=False)
    try:
        predictions = run.predictions()
    except UserError as problem:  # the scores are there all the same
        console.print(str(problem), highlight=False, markup=False)
        predictions = []
    for each in random.Random(0).sample(predictions, min(SAMPLES, len(predictions))):
        console.print(f"\n[dim]source    [/] {escape(_short(each.source))}", highlight=False)
        console.print(f"[dim]reference [/] {escape(_short(each.reference))}", highlight=False)
        console.print(f"[bold]prediction[/] {escape(_short(each.prediction))}", highlight=False)
    console.print()
    for what, path in _files(run).items():
        console.print(f"{what:<12}{path}", highlight=False, markup=False, soft_wrap=True)


def score_table(metrics: dict[str, Any], width: int | None = None) -> Table:
    """The table of the terminal: each value with its 95% interval beside it, and a dash where a value is missing.

    A system is a row; where that is wider than `width`, it is a column.
    """
    header, rows = header_and_rows(metrics, scored(metrics))
    table = Table(title="Test scores with 95% intervals")
    table.add_column("", no_wrap=True)
    texts = [
        [f"{each.value} [dim]{each.interval}[/]" if each.interval else each.value for each in row.cells] for row in rows
    ]
    if width is not None and _width(header, rows) > width:
        for row in rows:
            table.add_column(row.label, justify="right", no_wrap=True, style="bold" if row.is_model else None)
        for number, name in enumerate(header):
            table.add_row(name, *(cells[number] for cells in texts))
        return table
    for name in header:
        table.add_column(name, justify="right", no_wrap=True)
    for row, cells in zip(rows, texts, strict=True):
        table.add_row(row.label, *cells, style="bold" if row.is_model else None)
    return table


def _width(header: Sequence[str], rows: Sequence[Row]) -> int:
    """Columns of the terminal that the table takes with a system in each row: two spaces and a line for each cell."""
    widest = [max(len(row.label) for row in rows)]
    for number, name in enumerate(header):
        cells = (row.cells[number] for row in rows)
        widest.append(max(len(name), *(len(f"{each.value} {each.interval}".strip()) for each in cells)))
    return sum(widest) + 3 * len(widest) + 1


def scored(metrics: dict[str, Any]) -> list[str]:
    """Names of the metrics that the model was scored by, in order; a value that is missing counts too."""
    keys = [key for key in metrics if key.startswith("test/") and {f"{key}/low", f"{key}/error"} & metrics.keys()]
    return [key.removeprefix("test/") for key in keys]


def header_and_rows(metrics: dict[str, Any], names: Sequence[str]) -> tuple[list[str], list[Row]]:
    """The titles of the columns of the table of scores, and its rows: the baselines', the model's, its control's.

    The terminal and the model card only format them, so a new column is added here alone.
    """
    baselines = {key.rpartition("/")[0] for key in metrics if key.startswith("baseline/") and key.count("/") == 2}
    control = ["control"] if any(key.startswith("control/") for key in metrics) else []
    rows = []
    for system in [*sorted(baselines), "test", *control]:
        label = LABELS.get(system, system.removeprefix("baseline/").replace("_", " "))
        cells = [_cell(metrics, f"{system}/{name}") for name in names]
        rows.append(Row(label, cells, is_model=system == "test"))
    return list(names), rows


def _cell(metrics: dict[str, Any], key: str) -> Cell:
    if key not in metrics:
        return Cell()
    value, low, high = (metrics.get(each) for each in (key, f"{key}/low", f"{key}/high"))
    if value is None:
        return Cell("-", complete=False)
    if low is None or high is None:
        return Cell(f"{value:.1f}", complete=False)
    return Cell(f"{value:.1f}", f"{low:.1f}-{high:.1f}")


def _files(run: Run) -> dict[str, Any]:
    files = {
        "run": run.folder,
        "model": run.model,
        "checkpoints": run.checkpoints,
        "predictions": run.folder / "predictions",
        "curves": run.curves,
    }
    return {what: path for what, path in files.items() if path.exists()}


def _short(text: str, length: int = 160) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
