"""References that a metric cannot compare: known to the metric, counted, and refused where they are many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.evaluation.references import check_references, unscorable
from encdec_lightning.evaluation.rouge import Rouge

OWN = """
from encdec_lightning.evaluation.exact_match import ExactMatch

class Mine(ExactMatch):
    def unscorable(self, reference):
        return reference == "x"

class Failing(ExactMatch):
    def unscorable(self, reference):
        raise RuntimeError("no")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics_with_references.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "metrics_with_references", raising=False)


@settings(deadline=None)
@given(reference=st.text())
def test_rouge_knows_the_references_that_rouge_score_makes_no_token_of(reference: str) -> None:
    assert Rouge().unscorable(reference) is (DefaultTokenizer(use_stemmer=True).tokenize(reference) == [])


def test_they_are_counted() -> None:
    references = ["a word", "…", "42", "これは要約です。", ""]
    assert unscorable(Rouge(), references) == 3
    assert unscorable(ExactMatch(), references) == 0


@pytest.mark.parametrize(("odd", "refused"), [(0, False), (1, False), (4, False), (5, True), (10, True)])
def test_from_half_on_the_metric_is_refused(odd: int, refused: bool) -> None:
    references = [*["Краткое содержание"] * odd, *["a summary"] * (10 - odd)]
    found = check_references(["exact_match", "rouge"], "test", lambda: references)
    assert [str(each) for each in found] == refused * [
        f"task.metrics is 'rouge': it can compare nothing in {odd} of 10 test references, such as 'Краткое содержание' "
        "(it compares the letters a-z and digits); choose another metric, such as bleu where spaces separate words, or "
        "exact_match."
    ]


def test_a_metric_of_ones_own_may_know_too(own: None) -> None:
    name = "metrics_with_references.Mine"
    (problem,) = check_references([name], "validation", lambda: ["x", "y"])
    assert "it can compare nothing in 1 of 2 validation references, such as 'x'; choose" in str(problem)
    assert check_references([name], "validation", lambda: ["x", "y", "y"]) == []
    (problem,) = check_references(["metrics_with_references.Failing"], "test", lambda: ["x"])
    assert str(problem).endswith("its method unscorable failed (RuntimeError: no).")
