"""`last.ckpt` every few minutes, between steps, and a fit that goes on from it exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run
from encdec_lightning.training.callbacks import timed_checkpoint

MINE = """
import os, lightning

class Dies(lightning.Callback):
    '''Is killed in the middle of an epoch, without notice.'''

    def on_train_batch_start(self, trainer, *_):
        if os.environ.get("DIES") and trainer.global_step == 8:
            raise KeyboardInterrupt
"""


class Clock:
    """A minute passes with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 60.0
        return self.now


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (in_tmp / "dies.py").write_text(MINE)
    monkeypatch.syspath_prepend(in_tmp)
    clock = Clock()
    monkeypatch.setattr(timed_checkpoint.time, "monotonic", clock)
    mine = ["callbacks.dies._target_=dies.Dies", "trainer.max_steps=12", "validate_every=5", "export=false"]
    return files.overrides(*mine, "variant=bertshare")


def saved_steps(monkeypatch: pytest.MonkeyPatch, *argv: str) -> list[int]:
    """The steps after which `TimedCheckpoint` saved."""
    steps: list[int] = []
    save = timed_checkpoint.lightning.Trainer.save_checkpoint

    def kept(trainer: Any, path: Any, *args: Any, **more: Any) -> None:
        if Path(path).name == "last.ckpt":
            steps.append(trainer.global_step)
        save(trainer, path, *args, **more)

    monkeypatch.setattr(timed_checkpoint.lightning.Trainer, "save_checkpoint", kept)
    main([*argv])
    return steps


def test_it_is_saved_between_validations_and_never_right_before_one(options, monkeypatch) -> None:
    steps = saved_steps(monkeypatch, *options, "folder=run", "checkpoint_minutes=0.5")
    between = [step for step in steps if step % 5 and step != 12]
    assert len(between) >= 4
    assert steps.count(5) == 1 and steps.count(10) == 1  # the validations' own


def test_null_saves_at_validations_only(options, monkeypatch) -> None:
    steps = saved_steps(monkeypatch, *options, "folder=run", "checkpoint_minutes=null")
    assert set(steps) == {5, 10, 12}


def test_a_fit_goes_on_from_it_bit_for_bit(options, monkeypatch, capsys) -> None:
    assert main([*options, "folder=whole", "checkpoint_minutes=0.5"]) == 0
    monkeypatch.setenv("DIES", "yes")
    assert main([*options, "folder=cut", "checkpoint_minutes=0.5"]) == 130
    step = torch.load("cut/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step in (6, 7, 8) and step % 5
    monkeypatch.delenv("DIES")
    assert main(["run=cut"]) == 0
    one, other = (Run.open(each).predictions() for each in ("whole", "cut"))
    assert one == other
    states = [torch.load(f"{each}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for each in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_it_changes_no_identity(options, capsys) -> None:
    shown = []
    for minutes in ("5", "null"):
        assert main([*options, "--cfg", f"checkpoint_minutes={minutes}"]) == 0
        shown.append(yaml.safe_load(capsys.readouterr().out))
    assert shown[0]["checkpoint_minutes"] == 5.0 and shown[1]["checkpoint_minutes"] is None
    assert main([*options, "checkpoint_minutes=0"]) == 2
    assert "checkpoint_minutes is 0.0: it must be above 0, or null for never." in capsys.readouterr().err
