"""Exact match: equal up to white space, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.errors import UserErrors
from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.records import Prediction

EXACT = ExactMatch()


def made(reference: str, prediction: str) -> Prediction:
    return Prediction(id="0", source="unused", reference=reference, prediction=prediction)


@pytest.mark.parametrize(
    ("reference", "prediction", "equal"),
    [
        ("a b", "a b", 1),
        ("a b", "  a \n\t b ", 1),
        ("", " ", 1),
        ("a b", "ab", 0),
        ("a b", "A b", 0),
        ("a b", "a b.", 0),
        ("a b", "a", 0),
        ("a b", "", 0),
    ],
)
def test_white_space_is_forgiven_and_nothing_else(reference: str, prediction: str, equal: int) -> None:
    statistics = EXACT.statistics(made(reference, prediction))
    assert statistics.shape == (1,)
    assert statistics.dtype == np.float64
    assert statistics[0] == equal


@settings(deadline=None)
@given(text=st.text())
def test_identical_text_scores_100(text: str) -> None:
    assert EXACT.aggregate(EXACT.statistics(made(text, text)), 1).tolist() == [100]


@settings(deadline=None)
@given(hits=st.lists(st.booleans(), min_size=1))
def test_aggregate_of_the_sum_is_the_share_in_percent(hits: list[bool]) -> None:
    rows = np.stack([EXACT.statistics(made("yes", "yes" if hit else "no")) for hit in hits])
    (value,) = EXACT.aggregate(rows.sum(axis=0), len(rows))
    assert value == pytest.approx(100 * sum(hits) / len(hits))
    assert 0 <= value <= 100


def test_aggregate_keeps_leading_axes() -> None:
    assert EXACT.aggregate(np.array([[1.0], [2.0], [4.0]]), 4).tolist() == [[25], [50], [100]]


@pytest.mark.parametrize(
    ("reference", "prediction", "equal"),
    [
        ("He 's here , now .", "He's here, now.", 1),
        ("( 3.5 % )", "(3.5%)", 1),
        ("a b", "a B", 0),
        ("a , b", "a b", 0),
        ("now here", "nowhere", 0),
        ("l'été", "l' été", 1),
    ],
)
def test_of_words_and_signs_spaces_around_signs_are_forgiven(reference: str, prediction: str, equal: int) -> None:
    assert ExactMatch("words").statistics(made(reference, prediction)) == equal


def test_what_it_does_not_compare_is_refused() -> None:
    with pytest.raises(UserErrors, match=r"tokens is .signs.: it must be spaces or words"):
        ExactMatch("signs")  # type: ignore[arg-type]


def test_names_and_signature() -> None:
    assert EXACT.names == ("exact",)
    assert EXACT.signature == "case:kept|space:collapsed|version:1"
    assert ExactMatch("words").signature == "case:kept|tokens:words and signs|version:1"
