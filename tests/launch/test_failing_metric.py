"""A metric that fails costs its own values: predictions, other metrics, table and export come; odd references are told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Files, pairs, write_rows

from encdec_lightning.cli.check import main as check
from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

MINE = """
import os, signal
from encdec_lightning.evaluation.exact_match import ExactMatch

class Failing(ExactMatch):
    names = ("mine",)

    def statistics(self, prediction):
        if os.environ.get("CRASH"):
            os.kill(os.getpid(), signal.SIGSEGV)
        raise ZeroDivisionError("of my own")
"""
FAILS = "ZeroDivisionError: of my own"


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (in_tmp / "my_metric.py").write_text(MINE)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    mine = ["task.metrics=[my_metric.Failing,rouge]", "task.baselines=[copy]", "folder=run", "trainer.max_steps=1"]
    return files.overrides(*mine, "validate_every=1", "task.validation_generate=2")


def refused(capsys: pytest.CaptureFixture[str], command, *argv: str) -> str:
    capsys.readouterr()
    assert command([*argv]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


def test_the_rest_of_the_results_comes(options, capsys):
    assert main([*options, "task.monitor=val/rouge1", "task.monitor_mode=max"]) == 0
    out, err = capsys.readouterr()
    run = Run.open("run")
    metrics = run.metrics()
    assert (run.status()["state"], len(run.predictions()), run.model.is_dir()) == ("finished", 12, True)
    for key in ("test", "baseline/copy", "control"):
        assert metrics[f"{key}/rouge1"] >= 0
        assert (metrics[f"{key}/mine"], metrics[f"{key}/mine/error"]) == (None, FAILS)
    line = f"mine is missing for test, baseline/copy, control: {FAILS}."
    assert line in err.splitlines() and line in out.replace("\n", " ")
    assert f"val/mine is missing after step 1: {FAILS}" in err.splitlines()
    assert "Test scores" in out and "Traceback" not in err
    assert evaluate(["run=run"]) == 0
    assert run.metrics() == metrics


def test_where_it_chooses_the_checkpoint_it_is_said_before_the_first_step(options, capsys):
    line = refused(capsys, main, *options, "task.monitor=val/mine", "task.monitor_mode=max")
    assert line == f"task.monitor is 'val/mine': this metric fails ({FAILS})."
    assert Run.open("run").resumable() is None


def test_predictions_outlive_a_metric_that_kills_the_process(options, monkeypatch):
    monkeypatch.setenv("CRASH", "1")
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, "task.validation_generate=0"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGSEGV
    run = Run.open("run")
    before = run.predictions()
    assert (len(before), run.status()["state"]) == (12, "running")
    monkeypatch.delenv("CRASH")
    assert main(["run=run"]) == 0
    assert run.predictions() == before
    assert run.metrics()["test/rouge1"] >= 0


def with_targets(folder: Path, *targets: str) -> str:
    rows = pairs(8, seed=9)
    for row, target in zip(rows, targets, strict=False):
        row["summary"] = target
    return f"task.test={write_rows(folder / 'odd.jsonl', rows)}"


def test_one_odd_reference_is_counted(options, in_tmp, capsys):
    assert main([*options, "task.metrics=null", "task.validation_generate=0", with_targets(in_tmp, "…")]) == 0
    assert Run.open("run").metrics()["test/rouge/unscorable"] == 1
    assert "rouge can compare nothing in 1 of the 8 references; they score 0." in capsys.readouterr().out


def test_references_in_another_script_are_told_before_the_fit(options, in_tmp, capsys):
    odd = [*options, "task.metrics=null", "task.validation_generate=0", with_targets(in_tmp, *["привет"] * 4)]
    sentence = "task.metrics is 'rouge': it can compare nothing in 4 of 8 test references, such as 'привет'"
    assert refused(capsys, check, "--data", *odd[:-1], odd[-1]).startswith(sentence)
    assert refused(capsys, main, *odd).startswith(sentence)
    run = Run.open("run")
    assert (run.status()["state"], run.checkpoints.exists()) == ("failed", False)
    assert run.status()["error"].startswith(sentence)
    assert json.loads((run.folder / "status.json").read_text())["error"].endswith("or exact_match.")
