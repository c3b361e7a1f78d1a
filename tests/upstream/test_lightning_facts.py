"""What Lightning does that this project has to go round: when a test fails here, the detour may go."""

from __future__ import annotations

import lightning
import pytest
import torch


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
