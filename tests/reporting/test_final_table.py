"""What a person sees of a run, and what an evaluation writes into it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from encdec_lightning.evaluation.exact_match import ExactMatch
from encdec_lightning.evaluation.metric import Score
from encdec_lightning.evaluation.rouge import Rouge
from encdec_lightning.records import Prediction
from encdec_lightning.reporting.final_table import Cell, Row, header_and_rows, scored, show
from encdec_lightning.reporting.results import flatten, write_results
from encdec_lightning.run import Run

PREDICTIONS = [
    Prediction("1", "the cat sat. it was [bold]red[/bold].", "the cat", "the cat"),
    Prediction("2", "a dog ran " * 40, "dog [/] runs", "a bird"),
]
SCORES = {name: Score(value, value - 1, value + 1, "s|1") for name, value in [("rouge1", 61.04), ("rouge2", 50.0)]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "study" / "run", {}, "abc")


def shown(run: Run) -> str:
    stream = StringIO()
    show(run, Console(file=stream, width=120))
    return stream.getvalue()


def test_results_are_flat_with_intervals_baselines_and_control(run):
    run.write_metrics({"train/steps": 3, "test/gone": 1.0, "baseline/gone/rouge1": 1.0, "control/gone": 1.0})
    write_results(run, PREDICTIONS, SCORES, ["rouge"], ["lead_sentence"])
    metrics = run.metrics()
    assert metrics["train/steps"] == 3
    assert not [key for key in metrics if "gone" in key]
    assert (metrics["test/rouge1"], metrics["test/rouge1/low"], metrics["test/rouge1/high"]) == (61.04, 60.04, 62.04)
    assert (metrics["test/rouge1/signature"], metrics["test/examples"]) == ("s|1", 2)
    for key in ("baseline/lead_sentence/rouge1", "control/rouge1"):
        assert metrics[f"{key}/low"] <= metrics[key] <= metrics[f"{key}/high"]
    assert metrics["control/rouge1"] == 0.0  # either text against the other's reference
    assert run.predictions() == PREDICTIONS


class Nothing(ExactMatch):
    """A ratio of zeros."""

    names = ("nothing",)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return total * 0 / (total * 0)


class Picky(ExactMatch):
    """Fails for the baseline and for the control."""

    names = ("picky",)

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        if prediction.prediction.startswith("the cat"):
            raise RuntimeError("no [cats]")
        return super().statistics(prediction)


def test_values_that_are_missing_are_null_and_said(run, monkeypatch, capsys):
    monkeypatch.setattr(
        "encdec_lightning.evaluation.registry.METRICS", {"rouge": Rouge, "nan": Nothing, "picky": Picky}
    )
    others = {name: Score(value, math.nan, math.inf, "s") for name, value in [("nothing", math.nan), ("ratio", 1.0)]}
    metrics = ["rouge", "nan", "picky"]
    write_results(run, PREDICTIONS, SCORES | others, metrics, ["lead_sentence"], {"picky": "RuntimeError: x"})
    found = json.loads((run.folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert (found["test/nothing"], found["test/nothing/low"], found["test/nothing/high"]) == (None, None, None)
    assert (found["test/ratio"], found["test/ratio/low"]) == (1.0, None)
    assert found["baseline/lead_sentence/nothing"] is None and found["control/nothing"] is None
    assert (found["test/picky"], found["test/picky/error"]) == (None, "RuntimeError: x")
    assert found["test/rouge1"] == 61.04 and found["control/rouge1"] == 0.0
    lines = [
        "nothing is missing for test, baseline/lead_sentence, control: its value is nan, which is no number.",
        "picky is missing for test: RuntimeError: x.",
        "picky is missing for baseline/lead_sentence, control: RuntimeError: no [cats].",
    ]
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(lines)
    text = shown(run)
    assert all(line in text for line in lines)
    (row,) = [line for line in text.splitlines() if "this model" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == [
        "61.0 60.0-62.0",
        "50.0 49.0-51.0",
        "-",
        "1.0",
        "-",
    ]


def test_references_that_score_0_are_counted_and_said(run):
    odd = replace(PREDICTIONS[1], reference="…")
    write_results(run, [PREDICTIONS[0], odd], SCORES, ["rouge", "exact_match"], [])
    assert run.metrics()["test/rouge/unscorable"] == 1
    assert "rouge can compare nothing in 1 of the 2 references; they score 0." in shown(run)
    write_results(run, PREDICTIONS, SCORES, ["rouge"], [])
    assert "test/rouge/unscorable" not in run.metrics()


def test_what_is_known_is_written_before_the_next_system_is_scored(run, monkeypatch):
    def killed(self: object, prediction: Prediction) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Rouge, "statistics", killed)
    with pytest.raises(KeyboardInterrupt):
        write_results(run, PREDICTIONS, SCORES, ["rouge"], ["copy"])
    assert (run.predictions(), run.metrics()["test/rouge1"]) == (PREDICTIONS, 61.04)


def test_one_example_has_no_control(run):
    write_results(run, PREDICTIONS[:1], SCORES, ["rouge"], [])
    assert not [key for key in run.metrics() if key.startswith("control/")]


def test_flatten():
    assert flatten("a", {"x": Score(1.0, 0.5, 2.0, "s")}) == {
        "a/x": 1.0,
        "a/x/low": 0.5,
        "a/x/high": 2.0,
        "a/x/signature": "s",
    }


def test_the_table_has_a_row_for_each_system_and_a_column_for_each_metric(run):
    write_results(run, PREDICTIONS, SCORES, ["rouge"], ["lead_sentence", "lead_8_words"])
    text = shown(run)
    table = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    assert [line.split()[1] for line in table] == ["┃", "lead", "lead", "this", "sources"]
    assert table[0].split() == ["┃", "┃", "rouge1", "┃", "rouge2", "┃"]
    assert "61.0 60.0-62.0" in table[3] and "50.0 49.0-51.0" in table[3]
    assert "lead 8 words" in text


def test_header_and_rows():
    known = {"a": 1.26, "a/low": 1.0, "a/high": 2.0}
    unbounded, missing = {"b": 1.0, "b/low": None, "b/high": None}, {"b": None, "b/error": "why"}
    systems = {"test": known | unbounded, "baseline/lead_8_words": known | missing, "control": known}
    metrics = {f"{system}/{key}": value for system, values in systems.items() for key, value in values.items()}
    assert scored({"test/examples": 2, "test/c": None, "test/c/error": "why", **metrics}) == ["c", "a", "b"]
    cell = Cell("1.3", "1.0-2.0")
    assert header_and_rows(metrics, ["a", "b"]) == (
        ["a", "b"],
        [
            Row("lead 8 words", [cell, Cell("-", complete=False)], is_model=False),
            Row("this model", [cell, Cell("1.0", complete=False)], is_model=True),
            Row("sources permuted", [cell, Cell()], is_model=False),
        ],
    )


def test_texts_are_shown_as_they_are_but_short(run):
    write_results(run, PREDICTIONS, SCORES, ["rouge"], [])
    text = shown(run)
    assert "[bold]red[/bold]" in text and "dog [/] runs" in text
    assert "..." in text and "a dog ran " * 20 not in text.replace("\n", " ")


def test_files_and_speed_only_where_there_are_any(run):
    write_results(run, PREDICTIONS, SCORES, ["rouge"], [])
    assert "of training" not in shown(run) and str(run.model) not in shown(run).replace("\n", "")
    run.model.mkdir()
    run.write_metrics(
        {**run.metrics(), "train/seconds": 12.3, "train/tokens_per_second": 4567.0, "train/examples": 8901}
    )
    text = shown(run)
    assert "12 s of training, 4,567 tokens/s, 8,901 examples" in text
    assert str(run.model) in text.replace("\n", "") and str(run.folder / "predictions") in text.replace("\n", "")


def test_a_table_too_wide_for_the_terminal_has_a_column_for_each_system(run):
    scores = {f"a_long_score_{number}": Score(61.04, 60.04, 62.04, "s|1") for number in range(8)}
    write_results(run, PREDICTIONS, scores, ["rouge"], ["lead_sentence"])
    for width, names_first in ((70, True), (300, False)):
        stream = StringIO()
        show(run, Console(file=stream, width=width))
        told = stream.getvalue()
        assert "…" not in told.split("source ")[0]
        assert all(name in told for name in scores) and "this model" in told and "lead sentence" in told
        first = next(line for line in told.splitlines() if "a_long_score_0" in line)
        assert ("a_long_score_1" not in first) == names_first


def test_baselines_split_sentences_as_the_model_of_the_run_does(tmp_path):
    values = {}
    for rule in (None, "lines"):
        run = Run.create(tmp_path / str(rule), {"model": {"encoder_sentences": rule}}, "abc")
        one = Prediction("1", "One. Two.\nThree.", "One. Two.", "x")
        write_results(run, [one], {}, ["exact_match"], ["lead_sentence"])
        values[rule] = run.metrics()["baseline/lead_sentence/exact"]
    assert values == {None: 0.0, "lines": 100.0}
