"""What the page shows of each example: source, references, and each run's prediction with its ROUGE-L."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.page.runs import Shown

ARGUMENTS = ("tokenizer", "stemmer", "references")
"""Of a run's own ROUGE, taken over where it has one."""


def examples(runs: Sequence[Shown], most: int) -> dict[str, Any]:
    """The examples of a section's runs, matched by id: at most so many, spread evenly over the file.

    Each is `[id, source, references, predictions, scores]`; the last two have a place for each run, None where it has
    no prediction for the example. `notes` say what is left out or does not fit together.
    """
    notes: list[str] = []
    outputs: list[dict[str, Prediction]] = []
    for each in runs:
        try:
            found = each.overview.run.predictions()
        except UserError as problem:
            why = f": {problem}" if each.overview.state == "finished" else "."
            notes.append(f"{each.label} is {each.overview.state} and has no predictions here{why}")
            found = []
        sound = [
            one
            for one in found
            if all(isinstance(text, str) for text in (one.id, one.source, one.prediction, *one.references))
        ]
        outputs.append({one.id: one for one in sound})
        if len(outputs[-1]) < len(found):
            lost = len(found) - len(outputs[-1])
            notes.append(f"{each.label} has {lost:,} predictions that are no texts, or whose id occurs twice.")
    first = {key: one for output in reversed(outputs) for key, one in output.items()}
    ids = [*dict.fromkeys(key for output in outputs for key in output)]
    for each, output in zip(runs, outputs, strict=True):
        other = sum(one.references != first[key].references for key, one in output.items())
        if other:
            notes.append(f"{each.label} has other references for {other:,} examples; those of the first run are shown.")
        if output and len(output) < len(ids):
            notes.append(f"{each.label} has no prediction for {len(ids) - len(output):,} examples.")
    if len(ids) > most:
        notes.append(f"{most:,} of the {len(ids):,} examples are in this page, spread evenly over the file.")
        ids = [ids[place * len(ids) // most] for place in range(most)]
    metric = _metric(runs)
    unscorable = sum(all(map(metric.unscorable, first[key].references)) for key in ids)
    if unscorable:
        notes.append(f"ROUGE-L can compare nothing in {unscorable:,} of the examples; they score 0.")
    return {
        "examples": [_example(key, first[key], [output.get(key) for output in outputs], metric) for key in ids],
        "signature": metric.signature,
        "notes": notes,
    }


def _example(key: str, like: Prediction, outputs: Sequence[Prediction | None], metric: Rouge) -> list[Any]:
    texts = [None if one is None else one.prediction for one in outputs]
    scores = {text: _score(Prediction(key, like.source, like.reference, text, like.other_references), metric)
              for text in texts if text is not None}  # fmt: skip
    return [key, like.source, like.references, texts, [None if text is None else scores[text] for text in texts]]


def _score(prediction: Prediction, metric: Rouge) -> float:
    return round(100 * float(metric.statistics(prediction)[0]), 1)


def _metric(runs: Sequence[Shown]) -> Rouge:
    """ROUGE-L as the first runs are scored with that have a ROUGE, else one that knows all scripts."""
    for each in runs:
        specs = each.overview.options.get("task.metrics") or ["rouge"]
        for spec in specs if isinstance(specs, list) else []:
            told = spec if isinstance(spec, Mapping) else {"name": spec}
            if told.get("name") == "rouge":
                with suppress(UserErrors, TypeError):  # the run itself was refused then
                    return Rouge(types=("rougeL",), **{name: told[name] for name in ARGUMENTS if name in told})
    return Rouge(types=("rougeL",), tokenizer="unicode")
