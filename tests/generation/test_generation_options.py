from __future__ import annotations

import pytest

from encdec_lightning import Generation
from encdec_lightning.errors import UserErrors


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_beams", 0), ("max_length", 0), ("min_length", -1), ("no_repeat_ngram_size", -1)],
)
def test_ranges(field: str, value: int) -> None:
    with pytest.raises(UserErrors, match=field):
        Generation(**{field: value})


def test_contradictory_lengths_are_refused() -> None:
    with pytest.raises(UserErrors, match="min_length is 9"):
        Generation(min_length=9, max_length=8)


def test_every_field_reaches_transformers() -> None:
    options = Generation(
        num_beams=3, max_length=7, min_length=2, length_penalty=0.5, no_repeat_ngram_size=2, early_stopping=True
    )
    assert options.arguments(20) == {
        "num_beams": 3,
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 2,
        "early_stopping": True,
        "do_sample": False,
    }
    assert Generation().arguments(20)["max_new_tokens"] == 20
