"""A fit that stops anywhere and goes on ends bit-equal to one that never stopped, losses and weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.data.batches.batch import collate
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.loss import token_losses
from encdec_lightning.training.optimizers import default_optimizer, parameter_groups

STEPS = 16  # in updates of 10: 7 an epoch, the last of 4; so it ends within the third epoch
MODES = {
    "full batches": {"batch_tokens": 200},
    "accumulated": {"batch_tokens": 200, "accumulate": 3},
    "updates of 10": {"batch_tokens": 200, "update_examples": 10},
    "updates of 30 target tokens": {"batch_tokens": 200, "update_target_tokens": 30},
}


@dataclass
class Trace(lightning.Callback):
    """The loss of every batch."""

    losses: list[float] = field(default_factory=list)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.losses.append(outputs["loss"].item())


class Killed(Exception):
    """What ends a fit that has saved."""


@dataclass
class SaveAt(lightning.Callback):
    """A checkpoint at the end of the batch that ends a step, as ModelCheckpoint writes it; then it may kill the fit."""

    path: Path
    step: int
    kills: bool = False

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)
            self.batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            if self.kills:
                raise Killed


def fit(
    files: tiny.Files,
    loading: Loading,
    callbacks: list[lightning.Callback],
    ckpt: Path | None = None,
    steps: int = STEPS,
    save: Path | None = None,
    schedule: str = "linear",
    **trainer: float,
):
    """The losses and weights of a fit, which goes on from `ckpt` and is saved to `save` when it has ended."""
    lightning.seed_everything(3, verbose=False)
    tokenizers = Tokenizers.from_pretrained(files.bert)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=12)  # fmt: skip
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, "tied", dropout=0.1, tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, Training(learning_rate=1e-3, warmup_steps=2, label_smoothing=0.1,
                                                               schedule=schedule))  # fmt: skip
    trace = Trace()
    runner = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        accumulate_grad_batches=loading.accumulate,
        callbacks=[RandomState(), trace, *callbacks],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **{"enable_checkpointing": False, **trainer},
    )
    runner.fit(module, Seq2SeqDataModule(task, tokenizers, loading), ckpt_path=ckpt, weights_only=True)
    if save is not None:
        runner.save_checkpoint(save)
    return trace.losses, {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def whole(files: tiny.Files):
    """The losses and weights of an uninterrupted fit, once for each mode."""
    made: dict[str, tuple[list[float], dict[str, torch.Tensor]]] = {}

    def whole(mode: str):
        if mode not in made:
            made[mode] = fit(files, Loading(**MODES[mode]), [])
        return made[mode]

    return whole


CASES = [  # (mode, step after which the state is saved, workers before and after)
    *((mode, 4, (0, 0)) for mode in MODES),
    ("updates of 10", 1, (0, 0)),
    ("updates of 10", 7, (0, 0)),  # the end of an epoch
    ("accumulated", 4, (2, 2)),
    ("updates of 10", 4, (2, 0)),
    ("accumulated", 4, (0, 1)),
]
MORE = [
    *((mode, step, (0, 0)) for mode in MODES for step in (1, 9)),
    *((mode, 4, workers) for mode in ("accumulated", "updates of 10") for workers in ((2, 2), (2, 0), (0, 1))),
]
CASES += [pytest.param(*each, marks=pytest.mark.slow) for each in MORE if each not in CASES]


@pytest.mark.parametrize(("mode", "step", "workers"), CASES, ids=str)
def test_resuming_changes_no_bit(mode, step, workers, whole, files, tmp_path) -> None:
    losses, weights = whole(mode)
    path, before = tmp_path / "at.ckpt", Trace()
    with pytest.raises(Killed):
        fit(files, Loading(**MODES[mode], workers=workers[0]), [before, SaveAt(path, step, kills=True)])
    rest, resumed = fit(files, Loading(**MODES[mode], workers=workers[1]), [], ckpt=path)
    assert before.losses + rest == losses  # saving, and workers, change nothing
    assert len(rest) > 0
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"limit_val_batches": 0, "limit_train_batches": 15},
        pytest.param({"limit_val_batches": 0}, marks=pytest.mark.slow),
        pytest.param({"val_check_interval": 15}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_fit_that_has_ended_goes_on(trainer, files, tmp_path) -> None:
    """Three micro-batches a step: within an epoch, at its end, whole or limited, and right after a validation."""
    loading, options = Loading(**MODES["updates of 10"]), {"schedule": "constant", **trainer}
    losses, weights = fit(files, loading, [], **options)
    for step in (5, 7):
        path = tmp_path / f"{step}.ckpt"
        first, _ = fit(files, loading, [], steps=step, save=path, **options)
        rest, resumed = fit(files, loading, [], ckpt=path, **options)
        assert first + rest == losses
        assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@dataclass
class EndIn(lightning.Callback):
    """In a batch, counted from 0, the fit is asked to stop, or an exception ends it on the way back."""

    batch: int
    asks: bool

    def on_before_backward(self, trainer, module, loss) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch and not self.asks:
            raise Killed

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            trainer.should_stop = self.asks


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("asks", [True, False], ids=["asked", "killed"])
def test_what_was_saved_within_a_step_goes_on_with_that_step(asks, files, tmp_path) -> None:
    """Three micro-batches a step, 21 an epoch; the second of a step, and an epoch's last one."""
    loading = Loading(**MODES["updates of 10"])
    options = {"schedule": "constant", "limit_val_batches": 0, "enable_checkpointing": True}
    losses, weights = fit(files, loading, [], schedule="constant")
    for batch, steps in ((10, 3), (20, 7 if asks else 6)):
        folder = tmp_path / f"{batch}"
        before = Trace()
        with nullcontext() if asks else pytest.raises(Killed):
            save = ModelCheckpoint(folder, save_on_exception=True)
            fit(files, loading, [before, EndIn(batch, asks), save], **options)
        (path,) = folder.iterdir()
        rest, resumed = fit(files, loading, [ModelCheckpoint(folder)], ckpt=path, **options)
        assert before.losses == losses[: batch + asks] and rest == losses[3 * steps :]
        assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_updates_of_a_fixed_size_take_as_many_steps_as_they_should(whole) -> None:
    """64 examples in updates of 10 are 7 steps an epoch, on each the same number of micro-batches."""
    losses, _ = whole("updates of 10")
    assert len(losses) % STEPS == 0
    assert len(losses) // STEPS > 1


@pytest.mark.parametrize(
    "loading", [{"update_examples": 40}, {"update_examples": 64}, {"update_target_tokens": 150}], ids=str
)
def test_steps_are_means_over_all_their_target_tokens(loading, files) -> None:
    """Against a loop over whole updates; 40 of 64 leave 24 to the last one."""
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=12)  # fmt: skip
    tokenizers = Tokenizers.from_pretrained(files.bert)
    training = Training(learning_rate=1e-3, schedule="constant", warmup_steps=0)

    def model():
        torch.manual_seed(0)
        return compose(files.bert, files.bert, "tied", dropout=0.0, tokenizers=tokenizers)

    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=150, **loading))
    module = Seq2SeqModule(model(), tokenizers, task, training)
    runner = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                               enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)  # fmt: skip
    runner.fit(module, data)
    assert runner.accumulate_grad_batches == data.micro_batches > 1

    slow = model().train()
    optimizer = default_optimizer(parameter_groups(slow, training, slow.config.fresh_parameters))
    plan = data._training_plan(0)
    assert runner.global_step == len(plan)
    for update in plan:
        members = [int(index) for row in update.micro_batches for batch in row for index in batch]
        batch = collate(data.examples("train"), members, tokenizers, 1)
        token_losses(slow, batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(module.model.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)
