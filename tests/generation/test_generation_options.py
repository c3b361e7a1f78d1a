from __future__ import annotations

from dataclasses import fields

import pytest

from encdec_lightning import Generation
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.generation.options import LACKING


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
        num_beams=3, num_return_sequences=2, max_length=7, min_length=2, length_penalty=0.5, no_repeat_ngram_size=2,
        early_stopping=True,
    )  # fmt: skip
    assert options.arguments(20) == {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 2,
        "early_stopping": True,
        "do_sample": False,
    }
    assert Generation().arguments(20)["max_new_tokens"] == 20
    drawn = Generation(do_sample=True, temperature=0.5, top_k=3, top_p=0.9).arguments(20)
    assert (drawn["do_sample"], drawn["temperature"], drawn["top_k"], drawn["top_p"]) == (True, 0.5, 3, 0.9)
    with pytest.raises(UserError, match="length_normalization is 'wu': transformers' generate knows length only"):
        Generation(num_beams=2, length_normalization="wu").arguments(20)


def test_every_option_reaches_transformers_or_is_declared_as_lacking() -> None:
    reached = Generation(num_beams=2).arguments(9) | Generation(do_sample=True).arguments(9)
    named = {name.replace("_new_tokens", "_length") for name in reached}
    assert named == {field.name for field in fields(Generation)} - LACKING.keys()
    for field, option in LACKING.items():
        assert getattr(Generation(), field) == option.neutral


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("length_normalization", "lenght", "it must be one of length, wu"),
        ("early_stopping", "always", "it must be true, false or never"),
        ("early_stopping", 1, "it must be true, false or never"),
        ("early_stopping", 0, "it must be true, false or never"),
        ("quantize", "int4", "it must be int8 or null"),
        ("num_beams", 2.0, "it must be a whole number"),
        ("num_beams", True, "it must be a whole number"),
        ("num_return_sequences", 1.0, "it must be a whole number"),
        ("max_length", 9.0, "it must be a whole number"),
        ("min_length", 2.5, "it must be a whole number"),
        ("no_repeat_ngram_size", None, "it must be a whole number"),
        ("top_k", 2.5, "it must be a whole number"),
    ],
)
def test_what_is_no_choice_is_refused(field: str, value: object, expected: str) -> None:
    with pytest.raises(UserErrors, match=f"^{field} is {value!r}: {expected}.$"):
        Generation(**{"num_beams": 2, field: value})


@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        (Generation(num_beams=2, length_normalization="wu"), ["length_normalization"]),
        (Generation(num_beams=2), []),
        (Generation(length_normalization="wu"), []),
        (Generation(num_beams=2, length_normalization="wu", length_penalty=0.0), []),
    ],
    ids=["wu", "length", "greedy", "no penalty"],
)
def test_what_is_beyond_transformers_is_what_changes_a_text(options: Generation, beyond: list[str]) -> None:
    assert options.beyond_transformers() == beyond


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"num_return_sequences": 3, "num_beams": 2},
            "num_return_sequences is 3: without do_sample it must be at most",
        ),
        ({"top_k": 5}, "top_k is 5: it needs do_sample=true"),
        ({"top_p": 0.5}, "top_p is 0.5: it needs do_sample=true"),
        ({"temperature": 0.5}, "temperature is 0.5: it needs do_sample=true"),
        ({"do_sample": True, "num_beams": 2}, "num_beams is 2: do_sample has one beam"),
        ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0: it must be at least 0.001"),
        ({"do_sample": True, "temperature": 1e-40}, "temperature is 1e-40: it must be at least 0.001"),
        ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5: it must lie above 0"),
        ({"do_sample": True, "top_k": -1}, "top_k is -1: it must not be negative"),
    ],
)
def test_contradictions_are_refused(options, sentence) -> None:
    with pytest.raises(UserErrors, match=sentence):
        Generation(**options)
