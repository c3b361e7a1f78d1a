"""What a score is worth: predictions that need no model, and predictions that belong to another source."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from encdec_lightning.errors import UserError, did_you_mean, one_of
from encdec_lightning.evaluation.extraction import greedy_oracle
from encdec_lightning.evaluation.sentences import lines_or_sentences, sentence_ends
from encdec_lightning.records import Prediction

Split = Callable[[str], list[str]]
"""A text's sentences."""


def lead_sentence(source: str) -> str:
    """The source up to the end of its first sentence; the whole source where no end is found (sentences.py)."""
    return source[: next(sentence_ends(source), len(source))]


def lead_words(source: str, count: int) -> str:
    """The first `count` words of the source, words being what white space separates, joined by single spaces."""
    return " ".join(source.split(maxsplit=count)[:count])


def copy(source: str) -> str:
    """The source itself."""
    return source


def lead_sentences(source: str, count: int, split: Split = lines_or_sentences) -> str:
    """The first sentences of the source, a line each; by default the lines of a source of several are its sentences."""
    return "\n".join(split(source)[:count])


def oracle_sentences(prediction: Prediction, count: int, split: Split = lines_or_sentences) -> str:
    """The sentences of the source that are most like a reference, a line each: about what an extract can reach.

    They are chosen one by one (`greedy_oracle`), so that a better choice may exist. Where no sentence shares a word
    with a reference it is the first one.
    """
    sentences = split(prediction.source)
    found = greedy_oracle(sentences, prediction.references, count)
    return "\n".join(sentences[number] for number in found or range(min(1, len(sentences))))


def _lead(count: int) -> Callable[[Prediction, Split | None], str]:
    def predict(prediction: Prediction, split: Split | None) -> str:
        if split is None and count == 1:
            return lead_sentence(prediction.source)
        return lead_sentences(prediction.source, count, split or lines_or_sentences)

    return predict


def _oracle(count: int) -> Callable[[Prediction, Split | None], str]:
    return lambda prediction, split: oracle_sentences(prediction, count, split or lines_or_sentences)


def _of_source(predict: Callable[[str], str]) -> Callable[[Prediction, Split | None], str]:
    return lambda prediction, split: predict(prediction.source)


BASELINES: dict[str, Callable[[Prediction, Split | None], str]] = {
    "lead_sentence": _lead(1),
    "lead_2_sentences": _lead(2),
    "lead_3_sentences": _lead(3),
    "lead_8_words": _of_source(partial(lead_words, count=8)),
    "lead_12_words": _of_source(partial(lead_words, count=12)),
    "copy": _of_source(copy),
    "oracle_1_sentence": _oracle(1),
    "oracle_3_sentences": _oracle(3),
}
"""By name what an example would be given, and how its source is split; its prediction is not looked at, its references
are by an oracle alone."""


def baseline(name: str) -> Callable[[Prediction, Split | None], str]:
    """The baseline of that name, which gives an example's text; raises `UserError` if it is unknown."""
    if name not in BASELINES:
        expected = f"{one_of(BASELINES)}{did_you_mean(name, BASELINES)}"
        raise UserError("task.baselines", name, expected)
    return BASELINES[name]


def baseline_predictions(name: str, predictions: Sequence[Prediction], split: Split | None = None) -> list[Prediction]:
    """The same examples in the same order with the predictions of a baseline. Raises `UserError` if it is unknown.

    `split` says what the sentences of a source are, where a model was told; else the rules of sentences.py do.
    """
    predict = baseline(name)
    return [replace(one, prediction=predict(one, split)) for one in predictions]


def permuted(predictions: Sequence[Prediction], seed: int = 0) -> list[Prediction]:
    """The same examples in the same order, each with the prediction made for another example's source.

    The control that shows whether a model uses its source: one that does loses its score. No example keeps its own
    prediction and each prediction is used once. Who gets whose depends on the ids and the seed, not on the order.
    Raises `UserError` when there are fewer than two examples.
    """
    if len(predictions) < 2:
        raise UserError(
            "task.baselines", "permuted", f"it needs at least two examples, and there are {len(predictions)}"
        )
    cycle = sorted(range(len(predictions)), key=lambda index: predictions[index].id)
    random.Random(seed).shuffle(cycle)
    result = list(predictions)
    for receiver, giver in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        result[receiver] = replace(predictions[receiver], prediction=predictions[giver].prediction)
    return result
