"""What an evaluation leaves in a run: predictions, and flat metrics with intervals, baselines and the control."""

from __future__ import annotations

from typing import Any

from encdec_lightning.evaluation.baselines import baseline_predictions, permuted
from encdec_lightning.evaluation.metric import Score, load_metric, score
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

Metrics = dict[str, Any]


def write_results(
    run: Run, predictions: list[Prediction], scores: dict[str, Score], metrics: list[str], baselines: list[str]
) -> None:
    """Write the test predictions, and put the model's, the baselines' and the control's scores into `metrics.json`.

    The control scores each prediction against the reference of another example: what a model reaches that ignores
    its source.
    """
    run.write_predictions(predictions)
    flat: Metrics = {}
    for name in baselines:
        flat |= flatten(f"baseline/{name}", _scores(baseline_predictions(name, predictions), metrics))
    flat |= flatten("test", scores)
    if len(predictions) > 1:
        flat |= flatten("control", _scores(permuted(predictions), metrics))
    flat["test/examples"] = len(predictions)
    kept = {
        key: value for key, value in run.metrics().items() if not key.startswith(("baseline/", "test/", "control/"))
    }
    run.write_metrics({**kept, **flat})


def flatten(prefix: str, scores: dict[str, Score]) -> Metrics:
    """`{prefix}/{name}`: value, and beside it `/low`, `/high`, `/signature`."""
    flat: Metrics = {}
    for name, each in scores.items():
        key = f"{prefix}/{name}"
        flat |= {key: each.value, f"{key}/low": each.low, f"{key}/high": each.high, f"{key}/signature": each.signature}
    return flat


def _scores(predictions: list[Prediction], metrics: list[str]) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for name in metrics:
        scores |= score(predictions, load_metric(name))
    return scores
