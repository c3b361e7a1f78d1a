"""The trials of a search in a table, and in files that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from encdec_lightning.files import write_text
from encdec_lightning.hparams_search.space import shown
from encdec_lightning.hparams_search.study import Tried
from encdec_lightning.reporting.progress_table import STYLES

BEST = "best.json"
TRIALS = "trials.csv"


def show_trials(tried: Sequence[Tried], best: Tried | None, monitor: str, console: Console | None = None) -> None:
    """Print a row for each trial; the best one's is bold."""
    names = list(dict.fromkeys(name for each in tried for name in each.params))
    states = [each.state for each in tried]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(
        title=f"{len(tried)} trials: {counts}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column(monitor, justify="right", no_wrap=True)
    table.add_column("validations", justify="right", overflow="fold")
    for name in names:
        table.add_column(escape(name.rpartition(".")[2]), overflow="fold")
    table.add_column("run", no_wrap=True)
    for each in tried:
        state = f"[{STYLES[each.state]}]{each.state}[/]" if each.state in STYLES else each.state
        table.add_row(
            str(each.number),
            state,
            "-" if each.value is None else f"{each.value:.4g}",
            str(each.validations),
            *(escape(shown(each.params[name])) if name in each.params else "-" for name in names),
            escape(Path(each.folder).name) if each.folder else "-",
            style="bold" if best is not None and each.number == best.number else None,
        )
    (console or Console(emoji=False)).print(table)


def write_trials(folder: Path, tried: Sequence[Tried], best: Tried | None, more: Mapping[str, Any]) -> None:
    """Write `trials.csv`, a row for each trial, and `best.json`, the best one with what `more` says of it."""
    names = list(dict.fromkeys(name for each in tried for name in each.params))
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["trial", "state", "value", "validations", *names, "folder", "error"])
    for each in tried:
        params = [each.params.get(name) for name in names]
        rows.writerow([each.number, each.state, each.value, each.validations, *params, each.folder, each.error])
    write_text(folder / TRIALS, text.getvalue())
    if best is not None:
        told = {"trial": best.number, "value": best.value, "params": dict(best.params), "folder": best.folder, **more}
        write_text(folder / BEST, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
