"""What a Trainer's precision means, for validation, prediction and the measured peak alike."""

from __future__ import annotations

import lightning
import pytest
import torch

from encdec_lightning.training import precision as meaning
from encdec_lightning.training.precision import autocast, low_dtype, precision_of_texts

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


@pytest.mark.parametrize("has_bf16", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("precision", "dtype"), KINDS)
def test_texts_are_written_in_what_a_processor_is_fast_in(
    precision: str | int | None, dtype: torch.dtype | None, device: str, has_bf16: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(meaning, "processor_has_bf16", lambda: has_bf16)
    found = precision_of_texts(precision, torch.device(device))
    said = capsys.readouterr().err
    if device == "cpu" and ((dtype == torch.bfloat16 and not has_bf16) or dtype == torch.float16):
        assert found == ("bf16-mixed" if has_bf16 else "32-true")
        assert said.startswith(f"trainer.precision is {precision}, ") and f"works in {found} here" in said
    else:
        assert found == precision and said == ""
