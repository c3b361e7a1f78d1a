"""A finished run, as a person wants to see it: scores, some predictions, where everything is."""

from __future__ import annotations

import random
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from encdec_lightning.errors import UserError
from encdec_lightning.reporting.results import remarks
from encdec_lightning.run import Run

SAMPLES = 5
ROW_NAMES = {"test": "this model", "control": "sources permuted"}


def show(run: Run, console: Console | None = None) -> None:
    """Print a run's table of scores, five sampled predictions, and its files."""
    console = console or Console()
    metrics = run.metrics()
    console.print(score_table(metrics))
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
        console.print(f"{what:<12}{path}", highlight=False, soft_wrap=True)


def score_table(metrics: dict[str, Any]) -> Table:
    """Rows: baselines, the model, its control. Columns: metrics, each with its 95% interval; a dash where none is."""
    scored = [key for key in metrics if key.startswith("test/") and {f"{key}/low", f"{key}/error"} & metrics.keys()]
    names = [key.removeprefix("test/") for key in scored]
    table = Table(title="Test scores with 95% intervals")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows_of(metrics):
        cells = [_cell(metrics, f"{row}/{name}") for name in names]
        label = ROW_NAMES.get(row, row.removeprefix("baseline/").replace("_", " "))
        table.add_row(label, *cells, style="bold" if row == "test" else None)
    return table


def rows_of(metrics: dict[str, Any]) -> list[str]:
    """What has scores: `baseline/{name}` for each, `test`, and `control`."""
    baselines = sorted(
        {key.rpartition("/")[0] for key in metrics if key.startswith("baseline/") and key.count("/") == 2}
    )
    return [*baselines, "test", *(["control"] if any(key.startswith("control/") for key in metrics) else [])]


def _cell(metrics: dict[str, Any], key: str) -> str:
    if key not in metrics:
        return ""
    value, low, high = (metrics.get(each) for each in (key, f"{key}/low", f"{key}/high"))
    if value is None:
        return "-"
    return f"{value:.1f}" if low is None or high is None else f"{value:.1f} [dim]{low:.1f}-{high:.1f}[/]"


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
