"""What a fit shows: steps of all, results of validations on lines of their own, nothing on other ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_module import parts, trainer

from encdec_lightning.training.callbacks.progress import FitProgress


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_and_results(
    files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, accumulate: int
) -> None:
    monkeypatch.setattr("encdec_lightning.progress.FIRST_LINE", 0.0)
    monkeypatch.setattr("encdec_lightning.progress.SECONDS", 0.0)
    monkeypatch.setattr("encdec_lightning.training.callbacks.progress.EVERY", 0.0)
    module, data = parts(files, accumulate=accumulate, validation_generate=4)
    bar = FitProgress()
    fit = trainer(
        tmp_path, max_steps=3, accumulate_grad_batches=accumulate, callbacks=[bar], enable_progress_bar=True,
        val_check_interval=2 * accumulate, check_val_every_n_epoch=None,
    )  # fmt: skip
    fit.fit(module, data)
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("training: ")]
    assert [line.partition(" steps")[0] for line in steps] == [f"training: {step} of 3" for step in (1, 2, 3)]
    assert ", loss " in steps[0]
    results = [re.fullmatch(r"step (\d): val/loss \d\.\d{3}, val/rouge1 .*", line) for line in lines if "val/" in line]
    assert [each and each[1] for each in results] == ["2", "3"]
    assert any(re.match("generating: . of 4 texts", line) for line in lines)
    assert "\r" not in "".join(lines)


def test_what_is_disabled_is_silent(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = parts(files)
    bar = FitProgress()
    bar.disable()
    trainer(tmp_path, max_steps=1, callbacks=[bar], enable_progress_bar=True).fit(module, data)
    assert not bar.is_enabled
    assert not [line for line in capsys.readouterr().err.splitlines() if line.startswith(("training", "step"))]
