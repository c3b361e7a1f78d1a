"""What an evaluation leaves in a run: predictions, and flat metrics with intervals, baselines and the control."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from encdec_lightning.composition.sentence_rules import split_sentences
from encdec_lightning.evaluation.baselines import Split, baseline_predictions, permuted
from encdec_lightning.evaluation.metric import Score
from encdec_lightning.evaluation.references import unscorable
from encdec_lightning.evaluation.registry import Spec, load_metric, score_all, title
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

Metrics = dict[str, Any]
PARTS = ("test/", "baseline/", "control/")


def write_results(
    run: Run,
    predictions: list[Prediction],
    scores: Mapping[str, Score],
    metrics: Sequence[Spec],
    baselines: list[str],
    failed: Mapping[str, str] | None = None,
) -> None:
    """Write the test predictions, and put the model's, the baselines' and the control's scores into `metrics.json`.

    The control scores each prediction against the reference of another example: what a model reaches that ignores
    its source. `failed` says of the model's values that are missing why they are. A value that is missing, the model's
    or another's, is null, `{key}/error` says why, and a line on stderr too. What is known is written before the next
    system is scored.
    """
    run.write_predictions(predictions)
    kept = {key: value for key, value in run.metrics().items() if not key.startswith(PARTS)}
    kept |= flatten("test", scores, failed)
    kept |= {"test/examples": len(predictions), **_unscorable(predictions, metrics)}
    run.write_metrics(kept)
    split = splits_of(run)
    for name in baselines:
        kept |= flatten(f"baseline/{name}", *score_all(baseline_predictions(name, predictions, split), metrics))
        run.write_metrics(kept)
    if len(predictions) > 1:
        kept |= flatten("control", *score_all(permuted(predictions), metrics))
        run.write_metrics(kept)
    for line in remarks(kept):
        print(line, file=sys.stderr)


def splits_of(run: Run) -> Split | None:
    """What a run's model takes for the sentences of a source; none where it was not told (`encoder_sentences`)."""
    rule = (run.config().get("model") or {}).get("encoder_sentences")
    return None if rule is None else partial(split_sentences, rule=rule)


def flatten(prefix: str, scores: Mapping[str, Score], failed: Mapping[str, str] | None = None) -> Metrics:
    """`{prefix}/{name}`: value, beside it `/low`, `/high`, `/signature`, `/better`; without one null, and `/error`."""
    flat: Metrics = {}
    for name, each in scores.items():
        key = f"{prefix}/{name}"
        flat |= {key: each.value, f"{key}/low": each.low, f"{key}/high": each.high, f"{key}/signature": each.signature}
        flat |= {} if each.better is None else {f"{key}/better": each.better}
        if not math.isfinite(each.value):
            flat |= {key: None, f"{key}/error": f"its value is {each.value}, which is no number"}
    for name, reason in (failed or {}).items():
        flat |= {f"{prefix}/{name}": None, f"{prefix}/{name}/error": reason}
    return flat


def remarks(metrics: Metrics) -> list[str]:
    """A sentence on each thing in flat metrics that a table of the scores would hide."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for key, value in metrics.items():
        if key.startswith(PARTS) and key.endswith("/error"):
            system, _, name = key.removesuffix("/error").rpartition("/")
            reasons.setdefault((name, value), []).append(system)
    found = [
        f"{name} is missing for {', '.join(systems)}: {why.removesuffix('.')}."
        for (name, why), systems in reasons.items()
    ]
    for key, count in metrics.items():
        if key.startswith("test/") and key.endswith("/unscorable"):
            name = key.removeprefix("test/").removesuffix("/unscorable")
            found.append(
                f"{name} can compare nothing in {count:,} of the {metrics['test/examples']:,} references; they score 0."
            )
    return found


def _unscorable(predictions: Sequence[Prediction], metrics: Sequence[Spec]) -> Metrics:
    """`test/{metric}/unscorable`: how many references score 0 whatever is predicted, where there are any."""
    found: Metrics = {}
    for spec in metrics:
        try:
            count = unscorable(load_metric(spec), [text for each in predictions for text in each.references])
        except Exception:  # its scores say so
            continue
        if count:
            found[f"test/{title(spec)}/unscorable"] = count
    return found
