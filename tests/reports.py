"""Folders of runs as a report reads them, made without a training."""

from __future__ import annotations

import random
from pathlib import Path

from encdec_lightning.evaluation.registry import score_all
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.results import flatten
from encdec_lightning.run import Run

WORDS = "the a cat dog sat ran on mat house red".split()


def predictions(error: float, seed: int, count: int = 60) -> list[Prediction]:
    """Of a system that writes each word wrong with some probability."""
    texts, draw = random.Random(0), random.Random(seed)
    references = [" ".join(texts.choices(WORDS, k=8)) for _ in range(count)]
    return [
        Prediction(str(i), f"{text} and more", text,
                   " ".join(draw.choice(WORDS) if draw.random() < error else word for word in text.split()))
        for i, text in enumerate(references)
    ]  # fmt: skip


def made(
    folder: Path, weights: str, seed: int, error: float | None, state: str = "finished", rate: float = 1e-4
) -> Run:
    """A run; of one that has no `error` nothing was tested."""
    config = {"name": "x", "seed": seed, "model": {"encoder": "/c/bert", "weights": weights},
              "training": {"learning_rate": rate}, "task": {"test": "data/test.jsonl", "metrics": ["rouge", "ter"]}}  # fmt: skip
    run = Run.create(folder, config, folder.name)
    run.set_state(state, "it broke" if state == "failed" else None)
    if error is not None:
        found = predictions(error, seed)
        run.write_predictions(found)
        scores, _ = score_all(found, ["rouge", "ter"])
        run.write_metrics({**flatten("test", scores), "test/examples": len(found), "data/test_fingerprint": "f",
                           "parameters": 1234567, "train/seconds": 10.0 + seed})  # fmt: skip
    return run


def log(run: Run, columns: str, *rows: str) -> None:
    """A log of the csv logger."""
    file = run.logs / "csv" / "version_0" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([f"epoch,step,{columns}", *rows]) + "\n", encoding="utf-8")
