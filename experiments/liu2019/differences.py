"""How far one system is above another, over the seeds of both: `python experiments/liu2019/differences.py runs`.

Statistics of each test example are averaged over seeds. Of each difference it prints the 95% interval of the paired
bootstrap over examples, the p-value of approximate randomization, and what each seed says. A baseline has no seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.evaluation.baselines import baseline_predictions
from encdec_lightning.evaluation.metric import statistics_of
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import difference
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.overview import find_runs
from encdec_lightning.reporting.results import splits_of
from encdec_lightning.run import Run

System = Callable[[Run], bool] | str
"""Which runs of a sweep, or the name of a baseline."""


def option(path: str, value: object) -> Callable[[Run], bool]:
    """Whether a run has this value of an option."""

    def has(run: Run) -> bool:
        found = run.config()
        for name in path.split("."):
            found = found[name]
        return found == value

    return has


EXTRACTS, TWO_RATES = option("model.encoder_segments", "interval"), option("training.encoder_learning_rate", 1e-4)
HIGH_RATE = option("training.learning_rate", 1e-3)
QUESTIONS: tuple[tuple[str, str, System, System], ...] = (
    ("BertSumExt above LEAD-1", "liu2019-ext", EXTRACTS, "lead_sentence"),
    ("ORACLE above BertSumExt", "liu2019-ext", "oracle_1_sentence", EXTRACTS),
    ("two rates above one", "liu2019-rates", TWO_RATES, lambda run: HIGH_RATE(run) and not TWO_RATES(run)),
)
"""What is asked, the name of the sweep, and the system that would score more than the other one."""


def arrays(runs: list[Run], system: System, metric: str) -> dict[int, NDArray[np.float64]]:
    """{seed: statistics (examples, values)} of a system; those of a baseline stand under each seed."""
    found = {}
    for run in runs:
        predictions: list[Prediction] = sorted(run.predictions(), key=lambda each: each.id)
        if isinstance(system, str):
            predictions = baseline_predictions(system, predictions, splits_of(run))
        elif not system(run):
            continue
        found[int(run.config()["seed"])] = np.asarray(statistics_of(predictions, load_metric(metric)), np.float64)
    return found


def main() -> None:
    """Print a table in markdown; a line for each question that has runs."""
    folder, rouge = Path(sys.argv[1]), load_metric("rouge")
    print("| | score | difference | each seed | p |\n|---|---|---:|---|---:|")
    for text, sweep, more, less in QUESTIONS:
        runs = [each for each in find_runs(folder / sweep) if each.status().get("state") == "finished"]
        sides = [arrays(runs, system, "rouge") for system in (less, more)]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if not seeds:
            continue
        stacked = [np.stack([side[seed] for seed in seeds]) for side in sides]
        told = difference(stacked[0].mean(axis=0), stacked[1].mean(axis=0), rouge.aggregate)
        each = [rouge.aggregate(values.sum(axis=1), values.shape[1]) for values in stacked]
        for at, name in enumerate(rouge.names):
            value, low, high, p = (float(getattr(told, kind)[at]) for kind in ("value", "low", "high", "p"))
            by_seed = ", ".join(f"{number:+.2f}" for number in (each[1] - each[0])[:, at])
            print(f"| {text} | {name} | {value:+.2f} ({low:+.2f} to {high:+.2f}) | {by_seed} | {p:.4f} |")


if __name__ == "__main__":
    main()
