"""What the runs of a block have found, small enough to be kept: scores, costs, and the statistics of each test example.

`results/<block>.jsonl` has a line a run, `results/<block>.npz` an array (examples, values) for each run and metric, in
the order of the examples' ids. With these, tests of differences need neither the runs nor anybody's text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import statistics_of
from encdec_lightning.evaluation.registry import load_metric, title
from encdec_lightning.reporting.overview import find_runs
from encdec_lightning.run import Run
from encdec_lightning.training.product_speeds import processor

Point = dict[str, str]
"""{option: value} of what sets a run apart in its block."""
RESULTS = Path(__file__).with_name("results")
COSTS = ("parameters", "train/steps", "train/seconds", "train/tokens_per_second", "train/flops")


@dataclass(frozen=True)
class Result:
    """One run that has ended."""

    point: Point
    """The options that set it apart in its block, its seed among them."""
    identity: str
    scores: dict[str, float]
    """Of the test set, and `loss`, the best of the validations, in nats a token."""
    costs: dict[str, float]
    metrics: list[str]
    test: str
    """The fingerprint of the test set."""
    setting: str
    """A hash of the run's options without seed, name and precision: that of the runs which may stand in one row."""
    baselines: dict[str, float]
    """Of systems that need no model, such as `copy/sari`."""
    checkpoints: dict[str, str]
    """sha256 of the weights of each side's checkpoint. They differ from machine to machine, as the precision does."""
    precision: str
    processor: str
    """Of the machine that wrote this down, which is the one that ran where run.py does it."""


def keep(
    block: str, runs: Path, folder: Path = RESULTS, drop_weights: bool = False, single: Point | None = None
) -> list[Result]:
    """Write down all runs of a block that have finished, beside those of earlier calls; returns them all.

    `single` are the axes of the block of which the sweep just run had one value, so that its labels do not name them.
    """
    known = {each.identity: each for each in read(block, folder)}
    arrays = dict(np.load(folder / f"{block}.npz")) if known else {}
    try:
        finished = [each for each in find_runs(runs) if each.status().get("state") == "finished"]
    except UserError:  # none has begun
        finished = []
    for run in finished:
        if run.identity() not in known:
            known[run.identity()] = _result(run, single or {})
            arrays |= {f"{run.identity()}/{spec}": values for spec, values in _statistics(run).items()}
        if drop_weights:
            shutil.rmtree(run.checkpoints, ignore_errors=True)
    if finished:
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / f"{block}.npz", **arrays)
        lines = [
            json.dumps(asdict(each)) for each in sorted(known.values(), key=lambda each: sorted(each.point.items()))
        ]
        (folder / f"{block}.jsonl").write_text("\n".join(lines) + "\n")
    return [*known.values()]


def read(block: str, folder: Path = RESULTS) -> list[Result]:
    """The runs of a block that were written down."""
    path = folder / f"{block}.jsonl"
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def statistics(block: str, result: Result, metric: str, folder: Path = RESULTS) -> NDArray[np.float64]:
    """What each test example adds to a metric's sum in a run; (examples, values)."""
    with np.load(folder / f"{block}.npz") as arrays:
        return np.asarray(arrays[f"{result.identity}/{metric}"], np.float64)


def point_of(label: str) -> Point:
    """The options of a run's label, such as `variant=bert2bert, decoder_layers=[2,4], seed=1`: its sweep's axes."""
    return dict(part.split("=", 1) for part in re.split(r", (?=\w+=)", label)) if label else {}


def _result(run: Run, single: Point) -> Result:
    metrics, config = run.metrics(), run.config()
    signed = [key.removesuffix("/signature") for key in metrics if key.endswith("/signature")]
    scores = {key.removeprefix("test/"): metrics[key] for key in signed if key.startswith("test/")}
    scores["loss"] = metrics["best/val/loss"]
    baselines = {key.removeprefix("baseline/"): metrics[key] for key in signed if key.startswith("baseline/")}
    return Result(
        point=dict(sorted({**single, **point_of(run.status().get("point") or "")}.items())),
        identity=run.identity(),
        scores={name: round(value, 4) for name, value in scores.items()},
        costs={name: round(metrics[name], 1) for name in COSTS if name in metrics},
        metrics=[title(spec) for spec in config["task"]["metrics"]],
        test=metrics["data/test_fingerprint"],
        setting=setting(config),
        baselines={name: round(value, 4) for name, value in baselines.items()},
        checkpoints=_checkpoints(config),
        precision=metrics["train/precision"],
        processor=processor(),
    )


def setting(config: dict[str, Any]) -> str:
    """What `Result.setting` is of a config."""
    left_out = ("seed", "name", "folder", "logger", "export", "search", "slurm")
    kept = {name: _anywhere(value) for name, value in config.items() if name not in left_out}
    kept["trainer"] = {name: value for name, value in (kept.get("trainer") or {}).items() if name != "precision"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _checkpoints(config: dict[str, Any]) -> dict[str, str]:
    """A checkpoint without weights, which a fit from random weights may do with, is left out."""
    model = config.get("model") or {}
    folders = {Path(model[side]) for side in ("encoder", "decoder") if model.get(side)}
    files = [file for folder in sorted(folders) if (file := folder / "model.safetensors").exists()]
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _anywhere(value: Any) -> Any:
    """A value whose paths are names alone, as they are on every machine."""
    if isinstance(value, dict):
        return {name: _anywhere(each) for name, each in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _statistics(run: Run) -> dict[str, NDArray[np.float32]]:
    predictions = sorted(run.predictions(), key=lambda each: each.id)
    return {
        title(spec): statistics_of(predictions, load_metric(spec)).astype(np.float32)
        for spec in run.config()["task"]["metrics"]
    }
