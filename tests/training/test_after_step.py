"""A fit that is asked to end leaves a checkpoint wherever it stands, and goes on from it as if it had never stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
import tiny
import torch
from cases import some
from lightning.pytorch.callbacks import EarlyStopping

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.signals import TERMINATION, Terminated
from encdec_lightning.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from encdec_lightning.training.callbacks.ending import EndTogether
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.callbacks.timed_checkpoint import TimedCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
BY_STEPS = {"val_check_interval": 2, "check_val_every_n_epoch": None}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "steps": ({"every_n_train_steps": 7}, BY_STEPS),
    "steps, before the validation": ({"every_n_train_steps": 4}, BY_STEPS),
    "epochs": ({"every_n_epochs": 3}, BY_STEPS),
    "end": ({"only_at_end": True}, BY_STEPS),
    "no validation": ({"every_n_train_steps": 7}, {**BY_STEPS, "limit_val_batches": 0}),
    "no validation in this epoch": ({"every_n_train_steps": 7}, {"check_val_every_n_epoch": 3}),
    "end of an epoch": ({"every_n_train_steps": 5}, {}),
    "end of an epoch, by default": ({}, {}),
}


class Ask(lightning.Callback):
    """SIGTERM in a step; and counts the validations."""

    def __init__(self, step: int) -> None:
        self.step, self.validated = step, 0

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        if trainer.global_step == self.step - 1:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_end(self, trainer, module) -> None:
        self.validated += 1

    def state_dict(self) -> dict[str, int]:
        return {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.validated = state_dict["validated"]


def fit(files: tiny.Files, folder: Path, step: int, last: dict[str, Any], options: dict[str, Any], **more: Any):
    """The end of a fit of 10 steps that is asked to end in a step, -1 for none: its weights and counts."""
    lightning.seed_everything(3, verbose=False)
    tokenizers = Tokenizers.from_pretrained(files.bert)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=12)  # fmt: skip
    model = compose(files.bert, files.bert, "tied", dropout=0.1, tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, Training(learning_rate=1e-3, warmup_steps=2))
    ask, best = Ask(step), BestCheckpoint(folder, monitor="val/loss", save_top_k=-1)
    stops = [EarlyStopping("val/loss", patience=50)] if options in ({}, BY_STEPS) else []
    minutes = more.pop("minutes", 100.0)
    kept = [best, LastCheckpoint(folder, **last)]
    own = [EndTogether(folder / "last.ckpt"), TimedCheckpoint(folder / "last.ckpt", minutes)]
    trainer = lightning.Trainer(
        max_steps=10, accelerator="cpu", callbacks=[RandomState(), ask, *stops, *kept, *own], use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False, logger=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    with TERMINATION.handled():
        trainer.fit(module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400)), weights_only=True, **more)
    scores = {Path(path).name: float(score) for path, score in best.best_k_models.items()}
    return module.state_dict(), {**ask.state_dict(), "scores": scores, "steps": trainer.global_step}


KEPT = ("steps, before the validation", "end", "no validation", "no validation in this epoch", "end of an epoch")


@pytest.mark.parametrize("case", some(CASES, *KEPT))
def test_asked_to_end_it_saves_and_goes_on_exactly(case, files, tmp_path) -> None:
    last, options = CASES[case]
    weights, counts = fit(files, tmp_path / "whole", -1, last, options)
    updates = 7 if "epoch" in case and case != "epochs" else 4  # an epoch is 7 updates
    with pytest.raises(Terminated):
        fit(files, tmp_path / "cut", updates, last, options)
    assert torch.load(tmp_path / "cut/last.ckpt", weights_only=True)["global_step"] == updates
    resumed, found = fit(files, tmp_path / "cut", -1, last, options, ckpt_path=tmp_path / "cut/last.ckpt")
    assert found == counts
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_the_clock_saves_after_validations_too(files, tmp_path, monkeypatch) -> None:
    saved: list[tuple[int, bool]] = []
    save = lightning.Trainer.save_checkpoint

    def kept(trainer: Any, path: Any, *arguments: Any, **more: Any) -> None:
        if Path(path).name == "last.ckpt":
            saved.append((trainer.global_step, trainer.validating))
        save(trainer, path, *arguments, **more)

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", kept)
    options = {"val_check_interval": 1, "check_val_every_n_epoch": None}
    fit(files, tmp_path, -1, {"every_n_train_steps": 50}, options, minutes=1e-9)
    assert saved[:9] == [(step, step != 7) for step in range(1, 10)]  # an epoch's last step: at the epoch's end
