"""What the runs of each block have scored: `python experiments/miniature/tables.py` prints tables in markdown.

A row is a cell of its block, the mean over its seeds; the number behind ± is their standard deviation. `loss` is the
best of the validations, in nats a token of the row's own vocabulary: it compares rows with one vocabulary alone.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from reproduce import cells
from results import RESULTS, Result
from run import GPT, ROBERTA, ROWS

COLUMNS = {
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "exact_match": ("exact",),
    "sari": ("sari",),
    "bleu_uncased": ("bleu_uncased",),
}
"""By a metric of a task the scores that its table shows."""


def table(block: str) -> str:
    """A line a cell, in the order of the block's file."""
    found = cells(block)
    first = next(iter(next(iter(found.values())).values()))
    names = [name for metric in first.metrics for name in COLUMNS.get(metric, ()) if name in first.scores]
    names = [*dict.fromkeys(names), "loss"]
    lines = [
        f"| {block} | seeds | {' | '.join(names)} | parameters | minutes of training |",
        f"|---|{'---:|' * (len(names) + 3)}",
    ]
    for label, runs in sorted(found.items(), key=lambda cell: _place(cell[0])):
        each = [*runs.values()]
        scores = " | ".join(_mean([run.scores[name] for run in each]) for name in names)
        size, minutes = each[0].costs["parameters"], statistics.fmean(_minutes(run) for run in each)
        told = ", ".join(_told(part) for part in sorted(label.split(", "), key=_place))
        lines.append(f"| {told or 'one cell'} | {', '.join(runs)} | {scores} | {size:,.0f} | {minutes:.1f} |")
    kept = {
        name.rpartition("/")[0]: run.baselines
        for runs in found.values()
        for run in runs.values()
        for name in run.baselines
    }
    for baseline, values in kept.items():
        scores = " | ".join(
            f"{values[f'{baseline}/{name}']:.2f}" if f"{baseline}/{name}" in values else "" for name in names
        )
        lines.append(f"| {baseline} | | {scores} | | |")
    return "\n".join(lines)


def _told(option: str) -> str:
    """A row of the paper as it calls it; another option as it is."""
    return option.removeprefix("variant=").upper() if option.startswith("variant=") else option


def _place(label: str) -> tuple[int, str]:
    """Rows in the order of the paper, then by their options."""
    variant = re.search(r"variant=(\w+)", label)
    known = (*ROWS, *ROBERTA, *GPT)
    return known.index(variant[1]) if variant and variant[1] in known else len(known), label


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _minutes(run: Result) -> float:
    return run.costs["train/seconds"] / 60


def blocks(folder: Path = RESULTS) -> list[str]:
    """The blocks that have runs."""
    return sorted(file.stem for file in folder.glob("*.jsonl"))


if __name__ == "__main__":
    print("\n\n".join(map(table, blocks())))
