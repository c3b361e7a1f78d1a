"""Runs that differ are rows of their own, whatever their values look like, and what is not tested takes no part."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from reports import made
from rich.console import Console

from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.significance import holm, randomization
from encdec_lightning.reporting.final_table import show
from encdec_lightning.reporting.overview import option_text, overview
from encdec_lightning.reporting.progress_table import remarks
from encdec_lightning.reporting.report.folders import read_report
from encdec_lightning.reporting.report.formats import markdown
from encdec_lightning.run import Run


def with_option(
    folder: Path, value: object, seed: int = 1, quality: float | None = 0.1, state: str = "finished"
) -> Run:
    """A run that `made` makes, with an option more."""
    made(folder, "tied", seed, quality, state)
    run = Run(folder)
    text = run.config_file.read_text(encoding="utf-8")
    run.config_file.write_text(f"{text}init_from: {json.dumps(value)}\n", encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (("runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/best.ckpt"), ("a/checkpoints/best.ckpt", "b/checkpoints/best.ckpt")),
        (("small/x", "large/x"), ("small/x", "large/x")),
        (("one/x", "one/y"), ("x", "y")),
        ((0.12341, 0.12342), ("0.12341", "0.12342")),
        ((1e-4, 3e-4), ("0.0001", "0.0003")),
        (("Read: {source}\nTL;DR:", "Read / read: {source}"), ("Read: {source} TL;DR:", "Read / read: {source}")),
        (("/x", "x"), ("/x", "x")),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_differ_are_two_rows_with_texts_that_differ(tmp_path: Path, values, texts):
    for number, value in enumerate(values):
        with_option(tmp_path / f"run{number}", value)
    (section,), _ = read_report([tmp_path])
    assert section.options == ["init_from"]
    assert {row.options for row in section.rows} == {(text,) for text in texts}
    assert len([line for line in markdown([section]).splitlines() if line.startswith("|")]) == 4


def test_of_a_value_that_several_runs_have_the_text_is_one():
    assert option_text("a/b/c") == "c" and option_text("a/b/c", 2) == "b/c" and option_text("a/b/c", 20) == "a/b/c"


def test_a_seed_that_is_not_tested_yet_does_not_stop_the_comparison(tmp_path: Path):
    made(tmp_path / "good1", "tied", 1, 0.1)
    made(tmp_path / "bad1", "untied", 1, 0.4)
    made(tmp_path / "good2", "tied", 2, None, "running")
    (tmp_path / "good2" / "progress.json").write_text(json.dumps({"scores": {"rouge1": 3.0}, "step": 1}))
    (section,), said = read_report([tmp_path], against="tied")
    assert section.p_values and not [line for line in said if "not compared" in line]


def test_a_row_of_one_test_set_may_be_chosen_among_several(tmp_path: Path):
    for name in ("one", "two"):
        made(tmp_path / name / "tied", "tied", 1, 0.1)
        made(tmp_path / name / "untied", "untied", 1, 0.3)
    for kind in ("tied", "untied"):
        other = Run(tmp_path / "two" / kind)
        other.write_metrics({**other.metrics(), "data/test_fingerprint": "another"})
    sections, said = read_report([tmp_path], against=str(tmp_path / "two" / "tied"))
    assert [bool(section.p_values) for section in sections] == [False, True]
    assert len([line for line in said if "nothing is compared" in line]) == 1
    with pytest.raises(UserError, match="it must mean one row alone"):
        read_report([tmp_path], against="nowhere")


def test_a_difference_without_a_value_is_no_finding():
    import numpy as np

    first, second = np.ones((10, 2)), np.zeros((10, 2))

    def aggregate(sums, count):
        return np.stack([sums[:, 0] / count, np.full(len(sums), np.nan)], axis=1)

    found = randomization(first, second, aggregate, trials=200)
    assert found[0] < 0.05 and math.isnan(found[1])
    corrected = holm([*found, 0.03])
    assert corrected[0] == pytest.approx(2 * found[0]) and math.isnan(corrected[1]) and corrected[2] == 0.03


def test_places_and_texts_are_shown_as_they_are(tmp_path: Path):
    made(tmp_path / "[v2]", "tied", 1, 0.1)
    run = Run(tmp_path / "[v2]")
    first = run.predictions()[0]
    run.write_metrics({name: value for name, value in run.metrics().items() if name != "train/seconds"})
    run.write_predictions([type(first)(first.id, "at :100: [b]x[/b]", first.reference, first.prediction)])
    stream = io.StringIO()
    show(run, Console(file=stream, width=200, emoji=False))
    assert str(run.folder) in stream.getvalue() and "at :100: [b]x[/b]" in stream.getvalue()


def test_the_process_at_work_in_a_run_is_a_sign_of_life(tmp_path: Path):
    import os

    made(tmp_path / "run", "tied", 1, None, "running")
    run = Run(tmp_path / "run")
    (run.folder / "progress.json").write_text(json.dumps({"time": 1000.0, "step": 1, "doing": "testing"}))
    owner = run.folder / ".owner"
    owner.write_text("{}")
    os.utime(owner, (5000, 5000))
    assert overview(run, now=5060).state == "running"
    silent = overview(run, now=5200)
    assert silent.state == "silent" and "encdec-train run=" in remarks([silent])[0]
    run.config_file.write_text("model: {checkpoint: gpt2}\n")
    assert "the command that made it, given again with folder=" in remarks([overview(run, now=5200)])[0]


def test_metrics_with_options_are_compared_too_and_one_that_is_not_there_stops_itself_alone(tmp_path: Path):
    for kind, error in (("tied", 0.1), ("untied", 0.4)):
        run = made(tmp_path / kind, kind, 1, error)
        text = run.config_file.read_text(encoding="utf-8")
        specs = "  metrics:\n  - name: rouge\n    types: [rouge1]\n  - nowhere.Metric\n"
        run.config_file.write_text(text.replace("  metrics:\n  - rouge\n  - ter\n", specs), encoding="utf-8")
        assert "types" in run.config_file.read_text(encoding="utf-8")
    (section,), said = read_report([tmp_path], against="tied")
    assert {name for _, name in section.p_values} == {"rouge1"}
    assert [line for line in said if line.startswith("Nothing is compared by nowhere.Metric")]
