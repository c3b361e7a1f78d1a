"""`encdec-report`: rows, folded seeds, best values, paired marks, and the same numbers in each format."""

from __future__ import annotations

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from reports import made

from encdec_lightning.cli.report import main
from encdec_lightning.evaluation.metric import statistics_of
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import holm, randomization
from encdec_lightning.reporting.report.folders import read_report
from encdec_lightning.reporting.report.formats import latex, markdown, table, tex
from encdec_lightning.run import Run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of a good and of a bad system, one that failed, one that has not begun."""
    for seed in (1, 2):
        made(tmp_path / f"good{seed}", "tied", seed, 0.1)
        made(tmp_path / f"bad{seed}", "untied", seed, 0.4)
    made(tmp_path / "broken", "tied_embeddings", 1, None, "failed")
    made(tmp_path / "late", "tied_embeddings", 2, None, "running")
    return tmp_path


def test_options_are_columns_and_seeds_are_folded(runs):
    (section,), said = read_report([runs])
    assert section.options == ["model.weights"] and section.examples == 60
    assert [row.options for row in section.rows] == [("tied",), ("tied_embeddings",), ("untied",)]
    values = [Run(runs / f"good{seed}").metrics()["test/rouge1"] for seed in (1, 2)]
    good = section.rows[0].scores["rouge1"]
    assert good.mean == pytest.approx(statistics.fmean(values))
    assert good.deviation == pytest.approx(statistics.stdev(values))
    assert section.rows[1].state == "1 failed, 1 running of 2" and not section.rows[1].scores
    assert any("broken: it broke" in line for line in said)
    assert section.best("rouge1") == {0} and section.best("ter") == {0}  # more of the one, less of the other


def test_baselines_are_those_of_a_run_that_has_scored_them(runs):
    (section,), _ = read_report([runs])
    assert not any(row.label for row in section.rows)
    tested = Run(runs / "good2")
    tested.write_metrics({**tested.metrics(), "baseline/lead_sentence/rouge1": 12.5})
    (section,), _ = read_report([runs])  # the first run, bad1, has none
    assert section.rows[0].label == "lead sentence" and section.rows[0].scores["rouge1"].mean == 12.5


def test_one_run_alone_keeps_its_interval(runs):
    (section,), _ = read_report([runs / "good1"])
    (row,) = section.rows
    metrics = Run(runs / "good1").metrics()
    value = row.scores["rouge2"]
    assert (value.mean, value.low, value.high) == tuple(metrics[f"test/rouge2{end}"] for end in ("", "/low", "/high"))
    assert value.deviation is None and section.options == [] and section.best("rouge2") == set()


def test_a_run_is_a_row_once_and_other_test_sets_are_tables_of_their_own(runs, tmp_path_factory):
    other = made(tmp_path_factory.mktemp("other") / "elsewhere", "tied", 1, 0.2)
    other.write_metrics({**other.metrics(), "data/test_fingerprint": "another"})
    found, _ = read_report([runs, runs / "good1", other.folder])
    assert [sum(len(row.runs) for row in section.rows) for section in found] == [6, 1]


def test_rows_are_compared_with_a_chosen_one(runs):
    (section,), said = read_report([runs], against="untied")
    assert section.against == 2 and section.p_values[0, "rouge1"] < 0.05
    assert any("weights=tied_embeddings is not compared" in line for line in said)
    header, rows = table(section)
    marked = rows[0][header.index("rouge1")]
    assert marked.mark and marked.best and not rows[2][header.index("rouge1")].mark


def test_systems_that_are_alike_are_not_marked(tmp_path):
    for seed in (1, 2):
        made(tmp_path / f"one{seed}", "tied", seed, 0.3)
        made(tmp_path / f"two{seed}", "untied", seed + 10, 0.3)
    (section,), _ = read_report([tmp_path], against="one1")
    assert min(section.p_values.values()) > 0.05


@pytest.mark.parametrize("format", ["markdown", "latex", "csv", "json"])
def test_each_format_has_the_numbers(format, runs, capsys):
    file = runs / f"table.{format}"
    assert main([str(runs), f"--{format}", str(file), "--against", "untied", "--sort", "rouge1"]) == 0
    (section,), _ = read_report([runs])
    expected = section.rows[0].scores["rouge1"].mean
    text = file.read_text()
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert float(rows[0]["rouge1"]) == expected and float(rows[0]["rouge1/p"]) < 0.05
    elif format == "json":
        (told,) = json.loads(text)
        assert told["rows"][0]["rouge1"] == expected and "stemmer:porter" in told["signatures"]["rouge1"]
    else:
        assert f"{expected:.2f}" in text and ("\\toprule" in text or "| ---: |" in text)
    assert f"{expected:.2f}" in capsys.readouterr().out


def test_signs_of_latex_and_markdown(tmp_path):
    made(tmp_path / "a", "a_b|c", 1, 0.1)
    made(tmp_path / "b", "50% & ~x^2 {}\\#$", 1, 0.2)
    found, _ = read_report([tmp_path])
    assert "a\\_b|c" in latex(found) and "50\\% \\& \\textasciitilde{}x\\textasciicircum{}2 \\{\\}" in latex(found)
    assert "a_b\\|c" in markdown(found)
    assert tex("±<") == "$\\pm$$<$"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "folder is 'nowhere': there is no such folder"),
        ([".", "--sort", "rogue1"], "--sort is 'rogue1': it must be one of rouge1, rouge2, rougeL, ter (did you mean"),
        ([".", "--metrics", "rouge1,blue"], "--metrics is 'blue'"),
        (
            [".", "--against", "x"],
            "--against is 'x': it must mean one row alone: weights=tied; weights=tied_embeddings",
        ),
        ([".", "--csv", "no/where.csv"], "there is no such folder to write it into"),
    ],
)
def test_mistakes(arguments, sentence, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_with_a_damaged_config_is_a_row_of_its_own(runs):
    (runs / "good2" / "config.yaml").write_text("{")
    (section,), said = read_report([runs])
    assert section.options == ["model.weights"]  # that nothing is known of one is no difference
    assert [(row.options, len(row.runs)) for row in section.rows if row.options == ("-",)] == [(("-",), 1)]
    assert next(row for row in section.rows if row.options == ("tied",)).scores["rouge1"].deviation is None
    (alone,), _ = read_report([runs / "good1", runs / "good2"])
    assert alone.options == [] and len(alone.rows) == 2
    assert all("good2" not in line or "config.yaml cannot be read" in line for line in said)


def test_a_run_of_which_nothing_can_be_read_is_a_row(tmp_path):
    made(tmp_path / "lost", "tied", 1, None, "failed").config_file.write_text("{")
    (section,), _ = read_report([tmp_path])
    assert section.title == "an unknown test set" and [row.state for row in section.rows] == ["failed"]


def test_damaged_runs_are_rows_too(runs):
    (runs / "good1" / "metrics.json").write_text("{")
    (runs / "bad1" / "predictions" / "test.jsonl").write_text("no\n")
    (section,), said = read_report([runs], against="tied")
    assert sum(len(row.runs) for row in section.rows) == 6
    assert any("weights=untied is not compared" in line for line in said)


def test_a_row_without_predictions_is_said_whichever_it_is(runs, capsys):
    for name, content in (("good1", None), ("good2", None), ("bad1", ""), ("bad2", "")):
        path = runs / name / "predictions" / "test.jsonl"
        path.unlink() if content is None else path.write_text(content)
    for against in ("tied", "untied", "tied_embeddings"):
        assert main([str(runs), "--against", against]) == 0
        told = capsys.readouterr().err
        assert "weights=tied is not compared" in told and "weights=untied is not compared" in told


def test_a_narrow_terminal_has_the_scores_and_says_which_columns_it_lacks(runs, capsys, monkeypatch):
    for columns, lacking in (("100", None), ("60", ["parameters", "seconds"])):
        monkeypatch.setenv("COLUMNS", columns)
        assert main([str(runs), "--metrics", "rouge1,rougeL"]) == 0
        told = capsys.readouterr().out
        assert "rougeL" in told and "±" in told
        assert ("There is no room" in told) == (lacking is not None)
        for name in lacking or []:
            assert name not in told.split("There is no")[0]
    monkeypatch.delenv("COLUMNS")
    assert main([str(runs)]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("rouge1", "rouge2", "rougeL", "ter", "parameters", "seconds"))


def test_the_narrowest_terminal_keeps_a_score(runs, capsys, monkeypatch):
    for seed in (1, 2):
        made(runs / f"rate{seed}", "tied", seed, 0.2, rate=3e-4)
    monkeypatch.setenv("COLUMNS", "50")
    assert main([str(runs)]) == 0
    told, _, lacking = capsys.readouterr().out.partition("There is no room here for")
    assert "rouge1" in told and "±" in told and "weights" in told
    assert "learning_rate" in lacking and "rougeL" in lacking and "parameters" in lacking


def test_a_copy_of_a_run_is_no_seed(runs, tmp_path_factory, capsys):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(runs, copy / "again")
    (section,), said = read_report([runs, copy])
    assert [len(row.runs) for row in section.rows] == [2, 2, 2]
    assert said[0].startswith("6 folders hold runs that another one holds too, such as ")


def test_what_cannot_be_read_of_finished_runs_is_said(runs, capsys):
    (runs / "good1" / "metrics.json").write_text("{broken")
    (runs / "bad1" / "config.yaml").write_text("a: [")
    assert main([str(runs)]) == 0
    told = capsys.readouterr().err
    assert "good1: " in told and "its metrics.json cannot be read" in told
    assert "bad1: " in told and "its config.yaml cannot be read" in told


def test_runs_tested_on_fewer_examples_are_a_table_of_their_own(tmp_path):
    made(tmp_path / "whole", "tied", 1, 0.1)
    part = made(tmp_path / "part", "tied", 2, 0.1)
    part.write_metrics({**part.metrics(), "test/examples": 10})
    sections, _ = read_report([tmp_path])
    assert sorted((section.examples, len(section.rows)) for section in sections) == [(10, 1), (60, 1)]


def test_p_values_are_of_the_mean_over_seeds_and_corrected(tmp_path):
    for weights, seed, error in (("tied", 1, 0.30), ("tied", 2, 0.28), ("untied", 1, 0.33), ("untied", 2, 0.12)):
        made(tmp_path / f"{weights}{seed}", weights, seed, error)
    (section,), _ = read_report([tmp_path], against="tied")
    expected = {}
    for spec in ("rouge", "ter"):
        metric = load_metric(spec)
        tied, untied = (
            np.mean(
                [statistics_of(Run(tmp_path / f"{weights}{seed}").predictions(), metric) for seed in (1, 2)], axis=0
            )
            for weights in ("tied", "untied")
        )
        p_values = randomization(tied, untied, metric.aggregate).tolist()
        expected |= {(1, name): p_value for name, p_value in zip(metric.names, p_values, strict=True)}
    assert section.p_values == pytest.approx(dict(zip(expected, holm([*expected.values()]), strict=True)))


def test_rows_are_sorted_by_size_and_by_a_score_of_which_less_is_better(tmp_path):
    for number, value in enumerate((10.0, 9.0, 0.5)):
        run = made(tmp_path / f"run{number}", "tied", 1, 0.1 * (number + 1))
        run.config_file.write_text(run.config_file.read_text() + f"init_from: {value}\n")
    (section,), _ = read_report([tmp_path])
    assert [row.options for row in section.rows] == [("0.5",), ("9",), ("10",)]
    (section,), _ = read_report([tmp_path], sort="ter")
    values = [row.scores["ter"].mean for row in section.rows]
    assert values == sorted(values) and len({*values}) == 3


def test_values_that_are_printed_alike_are_best_together(tmp_path):
    for name, value in (("one", 40.001), ("two", 40.004), ("three", 39.9)):
        run = made(tmp_path / name, name, 1, 0.1)
        run.write_metrics({**run.metrics(), "test/rouge1": value})
    (section,), _ = read_report([tmp_path])
    assert {section.rows[row].options for row in section.best("rouge1")} == {("one",), ("two",)}
