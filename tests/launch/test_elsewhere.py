"""A run that was interrupted goes on on other devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

ENDS = """
import os, signal
import lightning

class Ends(lightning.Callback):
    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("ENDS_AT") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two epochs of four updates of 16 examples, which end in the last step of the first."""
    (in_tmp / "ending.py").write_text(ENDS)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.setenv("PYTHONPATH", str(in_tmp))
    monkeypatch.setenv("ENDS_AT", "3")
    lasts = ["~trainer.max_steps", "trainer.max_epochs=2", "data.update_examples=16", "validate_every=4"]
    more = ["model.dropout=0.0", "variant=bertshare", "export=false", "callbacks.ends._target_=ending.Ends"]
    return files.overrides(*lasts, *more)


@pytest.mark.slow
def test_a_run_goes_on_with_two_ranks(options: list[str], in_tmp: Path, monkeypatch, capfd):
    assert main([*options, "folder=moved"]) == 143
    moved = Run.open("moved")
    identity, config = moved.identity(), moved.config()
    monkeypatch.delenv("ENDS_AT")
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    assert main(["run=moved", *devices]) == 0, capfd.readouterr().err
    assert main([*options, "folder=whole"]) == 0
    whole = Run.open("whole").metrics()
    found = moved.metrics()
    assert (found["train/steps"], found["train/devices"], whole["train/devices"]) == (8, 2, 1)
    assert found["best/val/loss"] == pytest.approx(whole["best/val/loss"], abs=1e-4)
    assert (moved.identity(), moved.config()) == (identity, config)
    assert main([*options, "folder=moved"]) == 0  # the same command still knows it
    assert main(["run=moved", "trainer.devices=4"]) == 2
    assert "trainer.devices is '4': the run is finished" in capfd.readouterr().err


REFUSED = [
    (["trainer.devices=x"], "it cannot be built: `devices` selected with"),
    (["trainer.strategy=nothing"], "trainer.strategy is 'nothing'"),
    (["trainer.devices=2", "seed=1"], "a run continues with its own frozen config, without seed=1"),
    (["trainer.max_steps=9"], "a run continues with its own frozen config, without trainer.max_steps=9"),
]


def test_what_a_run_cannot_go_on_with(options: list[str], capfd):
    assert main([*options, "folder=run"]) == 143
    before = Run.open("run").status()
    for given, sentence in REFUSED:
        assert main(["run=run", *given]) == 2
        assert sentence in capfd.readouterr().err
        assert Run.open("run").status() == before


def test_a_step_of_micro_batches_belongs_to_its_devices(options: list[str], capfd):
    options = [each for each in options if "update_examples" not in each]
    assert main([*options, "folder=run"]) == 143
    assert main(["run=run", "trainer.devices=2"]) == 2
    assert "a step is data.accumulate micro-batches on each device here" in capfd.readouterr().err
