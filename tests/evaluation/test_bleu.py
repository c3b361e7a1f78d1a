"""BLEU against sacrebleu's own corpus score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import Prediction

TEXTS = st.lists(st.sampled_from("The house , is Old . a Cat sat".split()), max_size=12).map(" ".join)


@settings(deadline=None)
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
@pytest.mark.parametrize(("name", "options"), [("bleu", {}), ("bleu_uncased", {"tokenize": "intl", "lowercase": True})])
def test_against_sacrebleu(name, options, texts):
    predictions = [Prediction(str(number), "s", reference, text) for number, (text, reference) in enumerate(texts)]
    expected = BLEU(**options, force=True).corpus_score(
        [text for text, _ in texts], [[reference for _, reference in texts]]
    )
    found = score(predictions, load_metric(name))[name]
    assert found.value == pytest.approx(expected.score)
    assert found.low <= found.high


def test_case_matters_to_one_of_them():
    one = Prediction("1", "s", "The old House is here .", "the old house is here .")
    assert score([one], load_metric("bleu_uncased"))["bleu_uncased"].value == pytest.approx(100)
    assert score([one], load_metric("bleu"))["bleu"].value < 60
    assert "case:lower|tokenize:intl" in load_metric("bleu_uncased").signature


def test_many_sums_at_once():
    metric = load_metric("bleu")
    totals = np.stack([metric.statistics(Prediction("1", "s", "a b c d e", text)) for text in ("a b c d e", "a b c d")])
    values = metric.aggregate(totals, 1)
    assert values.shape == (2, 1)
    assert values[0, 0] == pytest.approx(100)
    assert values[1, 0] < 100
