"""Where a fit ends, and which of its steps a validation follows, by what the trainer was told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from encdec_lightning.training.callbacks.steps import validation_follows
from encdec_lightning.training.module import Seq2SeqModule


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"), [(100, None, 100), (-1, 3, 90), (100, 3, 90), (50, 3, 50), (100, -1, 100)]
)
def test_a_fit_ends_at_the_first_of_its_bounds(steps, epochs, expected):
    data = SimpleNamespace(updates_per_epoch=lambda: 30)
    module = SimpleNamespace(trainer=SimpleNamespace(max_steps=steps, max_epochs=epochs, datamodule=data))
    assert Seq2SeqModule.total_steps(module) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by_epoch", "index", "total", "expected"),
    [(None, 99, 249, False), (None, 49, 199, True), (1, 99, 249, True), (1, 49, 199, False)],
)
def test_validations_are_counted_over_the_whole_fit_or_in_each_epoch(by_epoch, index, total, expected):
    loop = SimpleNamespace(total_batch_idx=total)
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=loop), val_check_batch=100, check_val_every_n_epoch=by_epoch,
        current_epoch=1, enable_validation=True,
    )  # fmt: skip
    assert validation_follows(trainer, index) is expected  # type: ignore[arg-type]
