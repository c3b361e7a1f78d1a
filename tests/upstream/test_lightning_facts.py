"""What Lightning does that this project has to go round: when a test fails here, the detour may go."""

from __future__ import annotations

from dataclasses import dataclass

import lightning
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import ModelCheckpoint


class Plain(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), fused=True)


def test_clipping_with_a_fused_optimizer_is_refused_in_bf16_too(tmp_path):
    """TaskModule.configure_gradient_clipping"""
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1.0, logger=False,
                                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                                default_root_dir=tmp_path)  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.ones(4, 2))
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        trainer.fit(Plain(), loader)


def test_scores_of_checkpoints_are_forgotten_in_another_folder(tmp_path):
    """training/callbacks/checkpoints.py, follow_folders"""
    before, after = (ModelCheckpoint(tmp_path / name, monitor="loss") for name in ("a", "b"))
    before.best_model_score = torch.tensor(1.0)
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        after.load_state_dict(before.state_dict())
    assert after.best_model_score is None


def test_frozen_dataclasses_are_refused():
    """records.py, same_may_be_set"""

    @dataclass(frozen=True)
    class Frozen:
        text: str

    with pytest.raises(ValueError, match="A frozen dataclass was passed"):
        move_data_to_device([Frozen("a")], "cpu")
