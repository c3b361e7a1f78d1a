"""What a Trainer's precision means, for validation, prediction and the measured peak alike."""

from __future__ import annotations

import lightning
import pytest
import torch

from encdec_lightning.training.precision import autocast, low_dtype

KINDS = [
    ("bf16-mixed", torch.bfloat16),
    ("bf16-true", torch.bfloat16),
    ("bf16", torch.bfloat16),
    ("16-true", torch.float16),
    (16, torch.float16),
    ("32-true", None),
    (32, None),
    ("64-true", None),
    (None, None),
]


@pytest.mark.parametrize(("precision", "dtype"), KINDS)
def test_the_dtype_of_a_precision(precision: str | int | None, dtype: torch.dtype | None) -> None:
    assert low_dtype(precision) == dtype


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true", None])
def test_autocast_computes_as_a_trainer_does(precision: str | None) -> None:
    trainer = lightning.Trainer(accelerator="cpu", devices=1, precision=precision, logger=False)
    values = torch.ones(2, 2)
    with trainer.precision_plugin.forward_context():
        expected = (values @ values).dtype
    with autocast(precision, torch.device("cpu")):
        assert (values @ values).dtype == expected
