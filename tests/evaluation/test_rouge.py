"""ROUGE equals rouge-score."""

from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.records import Prediction

ROUGE = Rouge()
WORDS = st.lists(st.sampled_from(["the", "cats", "cat", "runs", "running", "Ran", "on", "a", "mat.", "7"]), min_size=1)
TEXTS = WORDS.map(" ".join)


def made(reference: str, prediction: str) -> Prediction:
    return Prediction(id="0", source="unused", reference=reference, prediction=prediction)


@settings(deadline=None)
@given(reference=TEXTS, prediction=TEXTS)
def test_equals_rouge_score_directly(reference: str, prediction: str) -> None:
    direct = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, prediction)
    expected = [direct["rouge1"].fmeasure, direct["rouge2"].fmeasure, direct["rougeL"].fmeasure]
    np.testing.assert_array_equal(ROUGE.statistics(made(reference, prediction)), expected)


def test_values_by_hand() -> None:
    statistics = ROUGE.statistics(made("the cat sat down", "the dog sat"))
    # Unigrams: 2 of 3 and 2 of 4 match. Bigrams: none. Longest common subsequence: "the sat".
    np.testing.assert_allclose(statistics, [4 / 7, 0, 4 / 7])


def test_words_are_stemmed() -> None:
    assert ROUGE.statistics(made("he was running", "he was runs"))[0] == 1


@settings(deadline=None)
@given(text=st.lists(st.sampled_from(["one", "two", "three"]), min_size=2).map(" ".join))
def test_identical_text_of_two_words_scores_100(text: str) -> None:
    np.testing.assert_allclose(ROUGE.aggregate(ROUGE.statistics(made(text, text)), 1), 100)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_aggregate_of_the_sum_is_the_mean_and_within_0_and_100(pairs: list[tuple[str, str]]) -> None:
    rows = np.stack([ROUGE.statistics(made(*pair)) for pair in pairs])
    values = ROUGE.aggregate(rows.sum(axis=0), len(rows))
    np.testing.assert_allclose(values, 100 * rows.mean(axis=0))
    assert np.all(values >= 0)
    assert np.all(values <= 100 + 1e-9)


def test_aggregate_keeps_leading_axes() -> None:
    totals = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_allclose(ROUGE.aggregate(totals, 4), 25 * totals)


@pytest.mark.parametrize(("reference", "prediction"), [("", "words"), (" \n", "words"), ("words", ""), ("", "")])
def test_an_empty_text_scores_0(reference: str, prediction: str) -> None:
    np.testing.assert_array_equal(ROUGE.statistics(made(reference, prediction)), [0, 0, 0])


@pytest.mark.parametrize("reference", ["これは要約です。", "Краткое содержание", "— …", "🙂"])
def test_a_reference_without_tokens_scores_0(reference: str) -> None:
    np.testing.assert_array_equal(ROUGE.statistics(made(reference, reference)), [0, 0, 0])


def test_a_prediction_in_another_script_scores_0() -> None:
    np.testing.assert_array_equal(ROUGE.statistics(made("a summary", "これは要約です。")), [0, 0, 0])


def test_the_signature_names_the_installed_version() -> None:
    assert ROUGE.signature == f"f1|stemmer:porter|tokenizer:ascii|references:best|rouge-score:{version('rouge-score')}"
