"""chrF, TER, NLTK's BLEU, standard SARI, descriptive metrics, arguments and labels, several references."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.registry import check_metrics, load_metric, score_all, title
from encdec_lightning.records import Prediction

WORDS = st.lists(st.sampled_from(["the", "cat", "Cat", "sat", "on", "mats", ".", "it's"]), min_size=1, max_size=9)
TEXTS = WORDS.map(" ".join)
EXAMPLES = st.lists(
    st.builds(Prediction, st.uuids().map(str), TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=2).map(tuple)),
    min_size=1, max_size=5,
)  # fmt: skip


def value(name, predictions, **arguments) -> float:
    (found,) = score(predictions, load_metric({"name": name, **arguments}), samples=2).values()
    return found.value


def streams(predictions) -> tuple[list[str], list[list[str | None]]]:
    """As sacrebleu takes them: predictions, and for each place of a reference a list over examples."""
    ordered = sorted(predictions, key=lambda each: each.id)
    most = max(len(each.references) for each in ordered)
    return [each.prediction for each in ordered], [
        [each.references[i] if i < len(each.references) else None for each in ordered] for i in range(most)
    ]


@given(EXAMPLES)
def test_bleu_chrf_and_ter_are_sacrebleus(predictions):
    assert value("bleu", predictions) == pytest.approx(sacrebleu.corpus_bleu(*streams(predictions), force=True).score)
    assert value("chrf", predictions) == pytest.approx(sacrebleu.corpus_chrf(*streams(predictions)).score)
    expected = sacrebleu.corpus_chrf(*streams(predictions), word_order=2).score
    assert value("chrf", predictions, word_order=2) == pytest.approx(expected)
    assert value("ter", predictions) == pytest.approx(sacrebleu.corpus_ter(*streams(predictions)).score)


@pytest.mark.parametrize(
    ("name", "arguments", "corpus_score"),
    [
        ("chrf", {"lowercase": True}, sacrebleu.CHRF(lowercase=True).corpus_score),
        ("ter", {"case_sensitive": True}, sacrebleu.TER(case_sensitive=True).corpus_score),
        ("ter", {"normalized": True}, sacrebleu.TER(normalized=True).corpus_score),
        ("bleu", {"tokenize": "char"}, sacrebleu.BLEU(tokenize="char", force=True).corpus_score),
    ],
)
def test_arguments_reach_sacrebleu(name, arguments, corpus_score):
    one = [Prediction("1", "s", "the cat sat on (a) mat .", "The Cat sat, on a mat.")]
    found = value(name, one, **arguments)
    assert found == pytest.approx(corpus_score(*streams(one)).score) and found != pytest.approx(value(name, one))


def test_ter_of_a_reference_without_words():
    assert [value("ter", [Prediction("1", "s", "", text)]) for text in ("a", "")] == [100, 0]


@given(EXAMPLES)
def test_nltks_bleu(predictions):
    references = [[each.split() for each in one.references] for one in predictions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on orders without a match
        expected = 100 * corpus_bleu(references, [one.prediction.split() for one in predictions])
    assert value("bleu_nltk", predictions) == pytest.approx(expected, rel=1e-9, abs=1e-60)


def slow_sari(source: str, prediction: str, references: list[str]) -> float:
    """Xu et al. (2016), each n-gram looked at by itself."""
    total = 0.0
    for n in range(1, 5):
        s, p, *rs = (
            Counter(tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1))
            for text in (source, prediction, *references)
        )
        count = len(rs)
        every = {*s, *p, *(gram for r in rs for gram in r)}
        keep_p, keep_r, delete, kept, keepable, deleted = 0.0, 0.0, 0.0, 0, 0, 0
        added = rightly = addable = 0
        for gram in every:
            right = sum(r[gram] for r in rs)
            in_both, in_source = min(s[gram], p[gram]) * count, s[gram] * count
            if in_both:
                kept += 1
                keep_p += min(in_both, right) / in_both
            if min(in_source, right):
                keepable += 1
                keep_r += min(in_both, right) / min(in_source, right)
            gone = max(s[gram] - p[gram], 0) * count
            if gone:
                deleted += 1
                delete += max(gone - right, 0) / gone
            added += p[gram] > 0 and not s[gram]
            addable += right > 0 and not s[gram]
            rightly += p[gram] > 0 and not s[gram] and right > 0
        ratio = lambda part, whole: part / whole if whole else 0.0  # noqa: E731
        f1 = lambda a, b: 2 * a * b / (a + b) if a + b else 0.0  # noqa: E731
        keep = f1(ratio(keep_p, kept), ratio(keep_r, keepable))
        add = f1(ratio(rightly, added), ratio(rightly, addable))
        total += (keep + ratio(delete, deleted) + add) / 3
    return 100 * total / 4


@given(
    source=st.lists(st.sampled_from("a b c d".split()), min_size=1, max_size=8).map(" ".join),
    prediction=st.lists(st.sampled_from("a b c d".split()), min_size=1, max_size=8).map(" ".join),
    references=st.lists(
        st.lists(st.sampled_from("a b c d e".split()), min_size=1).map(" ".join), min_size=1, max_size=3
    ),
)
def test_standard_sari_against_the_equations(source, prediction, references):
    one = Prediction("1", source, references[0], prediction, tuple(references[1:]))
    assert value("sari_standard", [one]) == pytest.approx(slow_sari(source, prediction, references))


def test_standard_sari_of_the_authors_example():
    """The README of the authors' script: three predictions for one sentence, with their values."""
    source = "About 95 species are currently accepted ."
    right = (
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    )
    texts = {
        "About 95 you now get in .": 26.827,
        "About 95 species are now agreed .": 58.897,
        "About 95 species are currently agreed .": 50.7,
    }
    for text, expected in texts.items():
        one = Prediction("1", source, right[0], text, right[1:])
        assert value("sari_standard", [one]) == pytest.approx(expected, abs=0.15), text


def test_the_papers_sari_of_several_references_is_their_mean():
    single = [value("sari", [Prediction("1", "a b c", right, "a b d")]) for right in ("a b d", "a c")]
    assert value("sari", [Prediction("1", "a b c", "a b d", "a b d", ("a c",))]) == pytest.approx(np.mean(single))


def test_one_of_several_references_is_matched_exactly():
    assert value("exact_match", [Prediction("1", "s", "a", "b", ("b",)), Prediction("2", "s", "a", "c", ("b",))]) == 50


def test_length_novelty_and_repetition_by_hand():
    texts = [
        Prediction("1", "the cat sat on the mat", "a cat", "The cat, the cat slept."),
        Prediction("2", "dogs run", "dogs run far away", "dogs run of of"),
        Prediction("3", "dogs run", "dogs", ""),
    ]
    length = score(texts, load_metric("length"), samples=2)
    assert (length["length"].value, length["length_ratio"].value) == (9 / 3, 9 / 7)
    novel = score(texts, load_metric("novel_ngrams"), samples=2)
    assert novel["novel_1grams"].value == pytest.approx(100 * (1 / 3 + 1 / 3 + 0) / 3)
    assert novel["novel_2grams"].value == pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)
    assert value("repetition", texts) == pytest.approx(100 / 3)  # "cat"; "the" and "of" are function words


def test_a_label_tells_two_of_a_kind_apart():
    specs = ["rouge", {"name": "rouge", "tokenizer": "unicode", "label": "unicode"}]
    scores, failed = score_all([Prediction("1", "s", "über", "über")], specs)
    assert not failed and not check_metrics(specs)
    assert [*scores] == ["rouge1", "rouge2", "rougeL", "rouge1_unicode", "rouge2_unicode", "rougeL_unicode"]
    assert "tokenizer:unicode" in scores["rouge1_unicode"].signature
    assert title(specs[1]) == "rouge_unicode"
    metric = load_metric(specs[1])
    assert metric.higher_is_better is True and not metric.unscorable("über") and not hasattr(metric, "nothing")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"name": "rouge", "tokeniser": "unicode"},
            "task.metrics is 'rouge.tokeniser': it must be one of types, tokenizer",
        ),
        (
            {"name": "rouge", "tokenizer": "latin"},
            "task.metrics is 'rouge.tokenizer': 'latin': it must be ascii or unicode",
        ),
        ({"tokenizer": "unicode"}, "a metric is a name, or a mapping with it and arguments"),
        ({"name": "rogue", "stemmer": False}, "did you mean 'rouge'"),
        ({"name": "rouge", "label": "a b"}, "must be a word of letters"),
        ({"name": "exact_match", "case": False}, "it must be one of tokens"),
        ({"name": "sari", "case": False}, "it takes no arguments"),
        (None, "task.metrics is None: a metric is a name"),
        (3, "task.metrics is 3: a metric is a name"),
        (["rouge"], "task.metrics is ['rouge']: a metric is a name"),
    ],
)
def test_mistakes_in_arguments(spec, sentence):
    with pytest.raises(UserError) as caught:
        load_metric(spec)
    assert sentence in str(caught.value)


def test_two_metrics_with_one_name():
    (problem,) = check_metrics(["rouge", {"name": "rouge", "stemmer": False}])
    assert "rouge gives rouge1 too: give one of them a label" in str(problem)
