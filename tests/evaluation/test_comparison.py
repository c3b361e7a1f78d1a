"""Tests of differences: equal to sacrebleu's, right about chance, and only about what was compared."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.comparison import compare
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import difference, holm
from encdec_lightning.records import Prediction

WORDS = "the a cat dog sat ran on mat house red".split()


def systems(count: int, *errors: float) -> list[list[Prediction]]:
    """Systems that write each word of the reference wrong with some probability."""
    draw = random.Random(0)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(4, 12))) for _ in range(count)]
    return [
        [
            Prediction(
                str(i), "s", text, " ".join(draw.choice(WORDS) if draw.random() < rate else w for w in text.split())
            )
            for i, text in enumerate(references)
        ]
        for rate in errors
    ]


@pytest.mark.parametrize("kind", ["bs", "ar"])
def test_p_values_are_sacrebleus_at_its_seed(kind):
    first, second = systems(120, 0.30, 0.27)
    metrics = {"bleu": BLEU(), "chrf": CHRF()}
    named = [(name, [each.prediction for each in each_of]) for name, each_of in (("first", first), ("second", second))]
    references = [[each.reference for each in first]]
    _, found = PairedTest(named, metrics, references, kind, n_samples=500)()
    for name in metrics:
        (results,) = (value for key, value in found.items() if key.lower().startswith(name))
        (own,) = compare(first, second, load_metric(name), resamples=500, trials=500).values()
        assert own.first == pytest.approx(results[0].score, rel=1e-6)
        assert own.second == pytest.approx(results[1].score, rel=1e-6)
        assert (own.p_bootstrap if kind == "bs" else own.p) == results[1].p_value


def test_equal_systems_do_not_differ():
    (one,) = systems(30, 0.3)
    (found,) = compare(one, one[::-1], load_metric("exact_match"), resamples=50, trials=50).values()
    assert (found.difference, found.low, found.high, found.p, found.p_bootstrap) == (0, 0, 0, 1, 1)


def test_a_clear_difference_is_seen():
    first, second = systems(100, 0.5, 0.1)
    for name in ("rouge", "bleu", "exact_match"):
        for found in compare(first, second, load_metric(name), trials=1000).values():
            assert found.p < 0.01 and found.p_bootstrap < 0.01 and 0 < found.low < found.difference < found.high


@pytest.mark.parametrize("values", ["continuous", "few"])
def test_one_false_alarm_in_twenty(values):
    """Two systems that are alike; of 400 comparisons 20 are expected to have p < 0.05, and 34 in one of a thousand."""
    draw = np.random.default_rng(0)
    alarms = np.zeros(2)
    for seed in range(400):
        shared = draw.normal(size=60)
        one, two = (shared + draw.normal(size=60) for _ in range(2))
        if values == "few":
            one, two = one > 0, two > 0
        rows = [each.astype(np.float64)[:, None] for each in (one, two)]
        found = difference(*rows, lambda total, count: total / count, resamples=300, trials=300, seed=seed)
        alarms += [found.p[0] < 0.05, not found.low[0] <= 0 <= found.high[0]]
    assert alarms[0] <= 34
    assert alarms[1] <= 44  # the percentile interval of 60 examples is a little narrow
    if values == "continuous":
        assert alarms.min() >= 8  # nor is it blind


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holms_correction(p_values):
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    rejected = [value < 0.05 for value in corrected]
    expected, still = [False] * len(p_values), True
    for rank, place in enumerate(order):  # Holm's procedure, step by step
        still = still and (len(p_values) - rank) * p_values[place] < 0.05
        expected[place] = still
    assert rejected == expected


def test_other_examples_are_named():
    first, second = systems(5, 0.1, 0.2)
    with pytest.raises(UserError, match=r"5 and 4 examples.* the first alone has 4"):
        compare(first, second[:4], load_metric("rouge"))
    with pytest.raises(UserError, match=r"the second alone has 0, 1"):
        compare(first[2:], second, load_metric("rouge"))
    with pytest.raises(UserError, match="an id occurs twice"):
        compare(first, [*second, second[0]], load_metric("rouge"))
    with pytest.raises(UserError, match=r"same references, which differ for 1 examples"):
        compare(first, [replace(second[0], reference="other"), *second[1:]], load_metric("rouge"))
