"""A search with real trainings on two ranks: killed, continued, pruned; and a sweep by joblib's launcher."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import listed

from encdec_lightning.cli.train import main
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.settle import settle
from encdec_lightning.run import Run
from encdec_lightning.training.callbacks.heartbeat import validations

SLOW = """
import time
import lightning

class Slow(lightning.Callback):
    def on_train_batch_end(self, *_):
        time.sleep(0.15)
"""
STEPS = 12


@pytest.fixture
def slow(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The option of a callback that makes a fit take long enough for what happens to it."""
    (in_tmp / "slow.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(in_tmp), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(in_tmp)
    return "callbacks.slow._target_=slow.Slow"


def wait_until(condition: object, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


def is_free(run: Run) -> bool:
    try:
        with run.lock():
            return True
    except ValueError:
        return False


@pytest.mark.slow
def test_a_search_is_killed_and_goes_on_and_prunes(files, in_tmp, slow, capfd):
    options = files.overrides(slow, "hardware=ddp_cpu", f"trainer.max_steps={STEPS}", "validate_every=2")
    options += ["export=false", "hparams_search=optuna", "training.learning_rate=0.01,1e-7", "search.sampler=random"]
    options += ["search.seed=1", "search.trials=2", "search.pruning_trials=1"]
    command = [sys.executable, "-m", "encdec_lightning.cli.train", "--multirun", *options]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)

    def begun() -> list[Path]:
        return [
            path.parent for path in in_tmp.glob("runs/run/*/validations.jsonl") if len(validations(path.parent)) > 1
        ]

    wait_until(begun)
    search.send_signal(signal.SIGKILL)
    search.wait()
    (first,) = begun()
    wait_until(lambda: is_free(Run(first)))
    assert len(validations(first)) < STEPS / 2  # there is something left to do
    assert main(["--multirun", *options]) == 0
    out, err = capfd.readouterr()
    assert "2 trials: 1 finished, 1 pruned" in out and "Trial 2 of 2 is pruned: others did better." in err
    assert re.search(rf"{STEPS} steps, [1-9]\d* are done", err)  # the first one has gone on from a checkpoint
    with (in_tmp / "runs/run/study/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["training.learning_rate"], row["state"]) for row in rows] == [
        ("0.01", "finished"),
        ("1e-07", "pruned"),
    ]
    good, bad = (Run(row["folder"]) for row in rows)
    assert good.folder == first and sorted(validations(first)) == list(range(2, STEPS + 1, 2))
    losses = [scores["val/loss"] for scores in validations(first).values()]
    assert float(rows[0]["value"]) == min(losses) == pytest.approx(good.metrics()["best/val/loss"])
    assert (good.status()["state"], bad.status()["state"]) == ("finished", "pruned")
    assert len(validations(bad.folder)) < STEPS / 2
    assert bad.resumable() is not None and is_free(bad)  # it may still be continued by hand


@pytest.mark.slow
def test_joblib_runs_two_points_at_once(files, in_tmp, slow, capfd):
    options = files.overrides("debug=step", "callbacks.slow._target_=slow.Slow")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    runs = [
        Run(in_tmp / "runs" / "run" / settle(compose_config([*options, f"seed={seed}"])).identity()[:12])
        for seed in (1, 2)
    ]
    assert main(["--multirun", *options, *launcher, "seed=1,2"]) == 0
    assert [run.status()["state"] for run in runs] == ["finished", "finished"]
    assert listed(capfd.readouterr().out) == 2
    begun, ended = zip(
        *[(run.config_file.stat().st_mtime, run.status_file.stat().st_mtime) for run in runs], strict=True
    )
    assert max(begun) < min(ended)  # at once
    before = [run.status_file.stat().st_mtime_ns for run in runs]
    assert main(["--multirun", *options, *launcher, "seed=1,2"]) == 0
    assert [run.status_file.stat().st_mtime_ns for run in runs] == before
