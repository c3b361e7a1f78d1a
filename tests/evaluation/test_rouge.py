"""ROUGE equals rouge-score."""

from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from encdec_lightning.errors import UserErrors
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.evaluation.sentences import lines_or_sentences, sentences
from encdec_lightning.evaluation.subsequence import common_length, common_places
from encdec_lightning.evaluation.words import Words
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


def test_words_are_stemmed_unless_that_is_switched_off() -> None:
    one = made("he was running", "he was runs")
    assert ROUGE.statistics(one)[0] == 1
    assert Rouge(stemmer=False).statistics(one)[0] == pytest.approx(2 / 3)


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


SIGNS = st.text(alphabet="abÀİß0-9 .'\nRunning,\u0301\u2028", max_size=40)
SENTENCES = st.lists(WORDS.map(" ".join), min_size=1, max_size=4).map("\n".join)


@given(reference=SIGNS, prediction=SIGNS)
def test_equals_rouge_score_for_any_signs(reference: str, prediction: str) -> None:
    direct = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, prediction)
    expected = [direct[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
    np.testing.assert_array_equal(ROUGE.statistics(made(reference, prediction)), expected)


@given(reference=SENTENCES, prediction=SENTENCES)
def test_summaries_of_sentences_equal_rouge_scores(reference: str, prediction: str) -> None:
    whole = Rouge(types=["rougeLsum"])
    lines = ["\n".join(lines_or_sentences(text)) for text in (reference, prediction)]
    direct = RougeScorer(["rougeLsum"], use_stemmer=True).score(*lines)["rougeLsum"].fmeasure
    np.testing.assert_array_equal(whole.statistics(made(reference, prediction)), [direct])


def test_sentences_of_one_line_count_as_lines_do() -> None:
    whole = Rouge(types=["rougeLsum"])
    one_line, lines = (
        "Cats run fast. Dogs sleep, e.g. at 3 p.m. here.",
        "Cats run fast.\nDogs sleep, e.g. at 3 p.m. here.",
    )
    assert sentences(one_line) == lines.split("\n")
    other = "Dogs sleep. Cats run."
    np.testing.assert_array_equal(whole.statistics(made(one_line, other)), whole.statistics(made(lines, other)))
    swapped = "Cats run. Dogs sleep."  # the order of sentences costs nothing
    np.testing.assert_array_equal(whole.statistics(made(one_line, other)), whole.statistics(made(one_line, swapped)))


def test_a_text_without_capital_letters_has_sentences_too() -> None:
    assert sentences("the river rose. people left! e.g. dr. who stayed. 3 died.") == [
        "the river rose.", "people left!", "e.g. dr. who stayed.", "3 died.",
    ]  # fmt: skip
    assert sentences("The river rose. people left.") == ["The river rose. people left."]


def test_words_equal_the_tokenizer_of_rouge_score() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    for text in ("Running cats' 3.5 co-operated İstanbul", "a_b c__d", "", "É's naïve  skies\tflying"):
        for stemmer in (True, False):
            assert Words("ascii", stemmer).tokenize(text) == DefaultTokenizer(stemmer).tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("これは要約です。", list("これは要約です")),
        ("Краткое, содержание!", ["краткое", "содержание"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("naïve nai\u0308ve", ["naïve", "naïve"]),
        ("GPT-2 読む 🙂", ["gpt", "2", "読", "む"]),
        ("", []),
    ],
)
def test_unicode_words(text: str, words: list[str]) -> None:
    assert Words("unicode", stemmer=False).tokenize(text) == words


@pytest.mark.parametrize("text", ["これは要約です。", "Краткое содержание", "ไทย สวัสดี"])
def test_all_scripts_score_with_the_unicode_tokenizer(text: str) -> None:
    rouge = Rouge(tokenizer="unicode")
    assert not rouge.unscorable(text)
    np.testing.assert_array_equal(rouge.statistics(made(text, text)), [1, 1, 1])


@given(one=st.lists(st.sampled_from("abc"), max_size=12), other=st.lists(st.sampled_from("abc"), max_size=12))
def test_subsequences_against_the_table(one: list[str], other: list[str]) -> None:
    from rouge_score.rouge_scorer import lcs_ind

    expected = lcs_ind(one, other)
    assert common_places(one, other) == expected
    assert common_length(one, other) == len(expected)


def test_of_several_references_the_best_one_or_the_mean() -> None:
    several = Prediction("0", "s", "one two", "one", ("one", "three"))
    np.testing.assert_allclose(Rouge(types=["rouge1"]).statistics(several), [1])
    np.testing.assert_allclose(Rouge(types=["rouge1"], references="mean").statistics(several), [(2 / 3 + 1 + 0) / 3])


@pytest.mark.parametrize("wrong", [{"types": []}, {"types": ["rouge9"]}, {"tokenizer": "x"}, {"references": "worst"}])
def test_arguments_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(UserErrors, match=next(iter(wrong))):
        Rouge(**wrong)
