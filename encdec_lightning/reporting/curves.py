"""The loss and learning-rate curves of one run, drawn from its csv log."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path

from encdec_lightning.run import Run

Points = list[tuple[int, float]]


def draw_curves(run: Run) -> None:
    """Write `curves.png`: training and validation loss over optimizer steps. Does nothing without a csv log."""
    curves = logged(run.logs)
    training, validation = (curves.get(name, []) for name in ("train/loss", "val/loss"))
    if not training and not validation:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*training, strict=True) if training else ([], []), label="train/loss", linewidth=1, alpha=0.6)
    axes.plot(*zip(*validation, strict=True) if validation else ([], []), label="val/loss", marker="o", markersize=4)
    axes.set(xlabel="optimizer step", ylabel="loss per target token (nats)", title=run.folder.parent.name)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = run.curves.with_suffix(".partial.png")
    figure.savefig(temporary, dpi=150)
    temporary.replace(run.curves)


def points(logs: Path, name: str) -> Points:
    """(step, value) of one logged name over all csv logs of a run; where a resumed run repeats a step, the later."""
    return logged(logs).get(name, [])


def logged(logs: Path) -> dict[str, Points]:
    """The points of every logged name. What is no number is passed over, as in a line that is cut off."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(logs.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with file.open(newline="", encoding="utf-8", errors="replace") as stream, suppress(csv.Error):
            for row in csv.DictReader(stream):
                for name, text in row.items():
                    with suppress(ValueError, TypeError, KeyError):  # an empty cell, or no step
                        found.setdefault(name, {})[int(row["step"])] = float(text)
    return {name: sorted(values.items()) for name, values in found.items() if values and name not in ("step", "epoch")}
