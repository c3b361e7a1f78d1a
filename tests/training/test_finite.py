"""A loss, a gradient or a weight that is no finite number ends the fit before a checkpoint holds it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from test_module import assert_equal, parts, trainer, weights
from tiny import Files

from encdec_lightning.errors import UserError
from encdec_lightning.training.callbacks import finite
from encdec_lightning.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from encdec_lightning.training.callbacks.finite import FiniteSteps


class Poison(lightning.Callback):
    """Puts an infinite number into a weight, or into a gradient, at the beginning of chosen batches."""

    def __init__(self, *batches: int, what: str = "weight") -> None:
        self.batches, self.what = batches, what
        self.seen: dict[int, torch.Tensor] = {}
        self.before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.seen[index] = batch.source_ids
        if index in self.batches:
            parameter = next(module.parameters())
            if self.what == "weight":
                parameter.data[:, 0] = math.inf
                self.before = weights(module)
            else:
                self.before = weights(module)
                hook = parameter.register_hook(lambda gradient: hook.remove() or gradient * math.inf)


def sources(data, ids: list[str]) -> list[list[int]]:
    examples = data.examples("train")
    known = {examples.pair(number).id: number for number in range(len(examples.lengths))}
    return [examples.ids(known[each])[0].tolist() for each in ids]


def named(error: UserError) -> list[str]:
    return re.findall(r"'(row-[^']*)'", str(error))


@pytest.mark.parametrize(("what", "field"), [("weight", "train/loss"), ("gradient", "gradient norm")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_ends_in_the_step(what, field, accumulate, files: Files, tmp_path: Path):
    module, data = parts(files, accumulate=accumulate)
    poison = Poison(3, what=what)
    best = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    runner = trainer(tmp_path, callbacks=[poison, best], accumulate_grad_batches=accumulate, enable_checkpointing=True)
    with pytest.raises(UserError, match=r"step \d ends the fit with the examples .* before are kept") as caught:
        runner.fit(module, data)
    step = 4 // accumulate
    assert (caught.value.field, f"step {step} ends" in str(caught.value)) == (field, True)
    assert_equal(poison.before, weights(module))  # the optimizer has not taken the step
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [f"step={each}.ckpt" for each in range(1, step)]
    batches = [3] if what == "weight" else range(4 - accumulate, 4)  # a gradient is of the whole step
    rows = [row.tolist() for index in batches for row in poison.seen[index]]
    found = sources(data, named(caught.value))
    assert [row[: len(ids)] for row, ids in zip(rows, found, strict=True)] == found


def test_a_step_that_is_judged_later_is_named_all_the_same(files, tmp_path):
    module, data = parts(files)
    module._finite = FiniteSteps(deferred=True)
    poison = Poison(3)
    with pytest.raises(UserError, match="step 4 ends the fit") as caught:
        trainer(tmp_path, callbacks=[poison], val_check_interval=6, check_val_every_n_epoch=None).fit(module, data)
    assert 4 in poison.seen and 5 not in poison.seen
    found = sources(data, named(caught.value))
    assert [row.tolist()[: len(ids)] for row, ids in zip(poison.seen[3], found, strict=True)] == found


@pytest.mark.parametrize("steps", [3, 4])
def test_no_checkpoint_is_written_before_a_step_is_judged(steps, files, tmp_path):
    """The step before the checkpoint, or before the fit's end, is the one that is not finite."""
    module, data = parts(files)
    module._finite = FiniteSteps(deferred=True)
    keeper = LastCheckpoint(tmp_path, every_n_train_steps=2)
    runner = trainer(tmp_path, callbacks=[Poison(steps - 1), keeper], enable_checkpointing=True, max_steps=steps)
    with pytest.raises(UserError, match=f"step {steps} ends the fit"):
        runner.fit(module, data)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("in_a_row", "ends"), [(2, False), (3, True)])
def test_steps_that_the_gradient_scaler_leaves_out(in_a_row, ends, files, tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "SKIPS", 2)
    module, data = parts(files)
    poison = Poison(*range(1, 1 + in_a_row), 5, what="gradient")
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))  # Lightning has none on a processor
    runner = trainer(tmp_path, callbacks=[poison], plugins=[plugin], max_steps=8)
    if ends:
        with pytest.raises(UserError, match=r"step 4, the last of 3 in a row, ends .* or trainer.precision=32-true"):
            runner.fit(module, data)
    else:
        runner.fit(module, data)
        assert all(value.isfinite().all() for value in weights(module).values())


def test_a_checkpoint_of_weights_that_are_not_finite_is_refused(files, tmp_path):
    module, data = parts(files)
    runner = trainer(tmp_path, max_steps=1)
    runner.fit(module, data)
    runner.save_checkpoint(tmp_path / "kept.ckpt")
    before = (tmp_path / "kept.ckpt").read_bytes()
    next(module.parameters()).data[0, 0] = math.nan
    with pytest.raises(UserError, match=r"norm of the weights is nan: .* no checkpoint of them is written"):
        runner.save_checkpoint(tmp_path / "kept.ckpt")
    assert (tmp_path / "kept.ckpt").read_bytes() == before


class Validated(lightning.Callback):
    """After step 4 the validation sees weights that are not finite."""

    def on_validation_start(self, trainer, module) -> None:
        if trainer.global_step == 4:
            next(module.parameters()).data[:, 0] = math.nan


def test_a_validation_loss_that_is_not_finite_ends_the_fit(files, tmp_path):
    module, data = parts(files)
    kept = [BestCheckpoint(tmp_path, monitor="val/loss"), LastCheckpoint(tmp_path)]
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None, "enable_checkpointing": True}
    with pytest.raises(UserError, match=r"val/loss is nan: .* after step 4, and the checkpoints of before are kept"):
        trainer(tmp_path, callbacks=[Validated(), *kept], **every).fit(module, data)
    for name in ("best", "last"):
        assert torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["global_step"] == 2


class Odd(lightning.Callback):
    """Logs a value that is no number in the first validation."""

    def on_validation_epoch_end(self, trainer, module) -> None:
        module.log("val/odd", float(trainer.global_step) if trainer.global_step > 2 else math.nan)


def test_the_best_checkpoint_is_never_that_of_no_number(files, tmp_path):
    module, data = parts(files)
    best = BestCheckpoint(tmp_path, monitor="val/odd", mode="max")
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None, "enable_checkpointing": True}
    trainer(tmp_path, callbacks=[Odd(), best], max_steps=2, **every).fit(module, data)
    assert (list(tmp_path.glob("*.ckpt")), best.best_model_score) == ([], None)
    trainer(tmp_path, callbacks=[Odd(), best], max_steps=4, **every).fit(*parts(files))
    assert (best.best_model_score, torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"]) == (4, 4)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_algorithm": "value"}, {"precision": "bf16-mixed"}], ids=str)
def test_clipping_is_that_of_lightning_and_torch(options, files, tmp_path, monkeypatch):
    """The norm that is computed for the judgement is the one that clips."""
    ends = []
    for known in (True, False):
        lightning.seed_everything(1, verbose=False)
        module, data = parts(files)
        if not known:

            def clip(optimizer, value, algorithm, module=module):
                parameters = [each for group in optimizer.param_groups for each in group["params"]]
                if algorithm == "value":
                    torch.nn.utils.clip_grad_value_(parameters, value)
                else:
                    torch.nn.utils.clip_grad_norm_(parameters, value)

            monkeypatch.setattr(module, "configure_gradient_clipping", lambda optimizer, gradient_clip_val, gradient_clip_algorithm, clip=clip: clip(optimizer, gradient_clip_val, gradient_clip_algorithm))  # fmt: skip
        trainer(tmp_path, gradient_clip_val=0.05, max_steps=3, **options).fit(module, data)
        ends.append(weights(module))
    assert_equal(*ends)


def test_what_is_not_finite_on_another_rank_counts(monkeypatch):
    monkeypatch.setattr(finite.distributed, "all_reduce", lambda own, op: own.fill_(1.0))
    for ranks, unsound in ((1, 0), (2, 1)):
        assert finite._on_any_rank(SimpleNamespace(world_size=ranks), [torch.ones(())]) == unsound
