"""What the page's plots show: learning curves of the logs, and final scores against what the runs have cost."""

from __future__ import annotations

import math
from typing import Any

from encdec_lightning.reporting.curves import Points, logged
from encdec_lightning.reporting.page.runs import Shown, row_label
from encdec_lightning.reporting.report.rows import COSTS, Section, finite_number

AXES = {
    "train/target_tokens": "target tokens",
    "train/tokens": "source and target tokens",
    "train/seconds": "seconds of training",
}
"""What curves may be drawn against besides steps, by its name in the log."""
SIZES = {**COSTS, "data/train_examples": "training pairs"}
"""What scores may be drawn against, by its name in metrics.json."""
MOST = 500
"""Points that are drawn of a curve; of a longer one every second, third or further, and the last."""


def plots(section: Section, runs: list[Shown]) -> dict[str, Any]:
    """The data of a section's plots; `runs` are its runs. None stands for what a run does not have."""
    logs = [logged(each.overview.run.logs) for each in runs]
    metrics = [each.metrics() for each in runs]
    values = {key: [finite_number(each.get(key)) for each in metrics] for key in SIZES}
    known = {key: [value for value in column if value is not None] for key, column in values.items()}
    notes = []
    for key, column in known.items():
        if len(column) < 2:
            notes.append(f"{'One run alone' if column else 'No run'} tells its {SIZES[key]}.")
        elif len({*column}) == 1:
            notes.append(f"The {SIZES[key]} of all runs are {column[0]:,.0f}.")
    missing = [title for name, title in AXES.items() if not any(name in log for log in logs)]
    names = dict.fromkeys(name for log in logs for name in log if name not in AXES and not name.startswith("test/"))
    return {
        "rows": [
            {  # `place` is a row's number without the baselines
                "place": sum(not other.label for other in section.rows[:number]),
                "label": row_label(section, row),
                "baseline": bool(row.label),
                "scores": {name: value.mean for name, value in row.scores.items()},
            }
            for number, row in enumerate(section.rows)
        ],
        "scores": section.scores,
        "points": {name: [finite_number(each.get(f"test/{name}")) for each in metrics] for name in section.scores},
        "sizes": [{"title": SIZES[key], "values": values[key]} for key in SIZES if len({*known[key]}) > 1],
        "sizes_left_out": notes,
        "logged": sorted(names, key=_usefulness),
        "curves": [{name: _curve(log[name]) for name in names if name in log} for log in logs],
        "axes": [{"name": name, "title": title} for name, title in AXES.items() if title not in missing],
        "axes_left_out": [f"No log tells the {title}." for title in missing],
        "of_axes": [{name: _curve(log[name]) for name in AXES if name in log} for log in logs],
    }


def _curve(points: Points) -> list[list[float]]:
    """Steps and values; at most `MOST` and the last of them, of numbers that are finite."""
    finite = [(step, float(f"{value:.6g}")) for step, value in points if math.isfinite(value)]
    few = finite[:: math.ceil(len(finite) / MOST)] if finite else []
    if few and few[-1] != finite[-1]:
        few.append(finite[-1])
    return [[step for step, _ in few], [value for _, value in few]]


def _usefulness(name: str) -> tuple[int, str]:
    """What is chosen first comes first."""
    first = ("val/loss", "train/loss")
    return (first.index(name) if name in first else 2 if name.startswith("val/") else 3), name
