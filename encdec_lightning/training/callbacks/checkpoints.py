"""Checkpoints under names that stay: `best.ckpt` is always the best one so far, `last.ckpt` the last one.

Their state does not depend on where the folder lies: it may be moved, copied or mounted elsewhere between two fits.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from encdec_lightning.errors import UserError
from encdec_lightning.training.callbacks.steps import ends_step, is_last_of_epoch, is_last_step, validation_follows

BEST, LAST = "best", "last"


class MovableCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that finds its files again where its folder was moved."""

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning forgets the scores of a `ModelCheckpoint` whose folder has another path; see `follow_folders`."""
        follow_folders(trainer, checkpoint)


class BestCheckpoint(MovableCheckpoint):
    """`best.ckpt` is the best checkpoint by `monitor`, whatever `save_top_k`, `filename` and the version counter are.

    With `save_top_k` of 1 and no `filename` it is the only file. Else the checkpoints have names of their own (by
    default `step-<optimizer steps>.ckpt`), and `best.ckpt` is a second name of the best one, which needs no space. The
    other arguments are Lightning's.
    """

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Choose the file names; several checkpoints need names that differ."""
        super().setup(trainer, pl_module, stage)
        several = self.save_top_k != 1
        if self.filename is None:
            self.filename = "step-{step}" if several else BEST
            self.auto_insert_metric_name = False
        elif several and "{step" not in self.filename:
            self.filename += "-{step}"
        if self.filename == LAST:
            raise UserError("BestCheckpoint.filename", LAST, "the last checkpoint has this name, choose another")

    def check_monitor_top_k(self, trainer: lightning.Trainer, current: Tensor | None = None) -> bool:
        """Whether a value is among the best; one that is no finite number never is."""
        return current is not None and bool(current.isfinite()) and super().check_monitor_top_k(trainer, current)

    def _save_topk_checkpoint(self, trainer: lightning.Trainer, monitor_candidates: dict[str, Any]) -> None:
        if trainer.limit_val_batches != 0 or self.monitor in monitor_candidates:  # else it is never known
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if self.dirpath is not None and self.best_model_path:
            name_best(trainer, self, Path(self.dirpath))


class LastCheckpoint(MovableCheckpoint):
    """`last.ckpt`, to continue from: of every validation, and of the end of the fit.

    Without validation it is as often as one would be, or of every epoch. A number of steps or epochs, or a time, may be
    chosen instead; where a validation follows the step, the checkpoint waits for it, and knows its score. It should be
    the last callback: what it writes then holds the state of all others.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        train_time_interval: Any = None,
        only_at_end: bool = False,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=LAST,
            save_top_k=0 if only_at_end else 1,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=every_n_epochs,
            train_time_interval=train_time_interval,
            enable_version_counter=False,
        )
        self._follows_validation = (every_n_train_steps, every_n_epochs, train_time_interval) == (None, None, None)
        self._stopped = False
        self._batch: int | None = None  # that is at its end
        self._due: int | None = None  # the step whose checkpoint waits
        self.after_step: tuple[Path, int] | None = None
        """The file and the step of what was saved last, if that was after a validation or an epoch's end."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Without validation, count the steps between two of them."""
        super().setup(trainer, pl_module, stage)
        interval = trainer.val_check_interval
        without = stage == "fit" and trainer.limit_val_batches == 0 and trainer.check_val_every_n_epoch is None
        if without and self._follows_validation and isinstance(interval, int):
            self._every_n_train_steps = max(1, interval // trainer.accumulate_grad_batches)
            self._every_n_epochs = 0

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.after_step = (Path(filepath), trainer.global_step) if self._batch is None else None

    def _save_topk_checkpoint(self, trainer: lightning.Trainer, monitor_candidates: dict[str, Any]) -> None:
        at = self._batch
        if at is not None and self.save_top_k and (is_last_step(trainer) or validation_follows(trainer, at)):
            self._due = trainer.global_step
        else:
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between whole steps only; a fit cannot go on exactly from within one."""
        if ends_step(trainer, batch_idx):
            self._batch = batch_idx
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._batch = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save what has waited for the validation; and anew what could not know that one would follow."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self._last_global_step_saved == trainer.global_step and self.after_step is None:
            self._due = trainer.global_step
        if not is_last_of_epoch(trainer):
            self._save_due(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The same where an epoch ends; Lightning's callbacks may look at its validation here only."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_due(trainer)

    def _save_due(self, trainer: lightning.Trainer) -> None:
        if self._due == trainer.global_step:
            self._due = None
            if self.after_step is None or self.after_step[1] != trainer.global_step:
                self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell also whether a callback, such as early stopping, has ended the fit before its planned end."""
        checkpoint["callbacks"][self.state_key]["stopped"] = bool(trainer.should_stop) and not _as_planned(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A fit that had been stopped is over; see `on_train_start`."""
        super().load_state_dict(state_dict)
        self._stopped = bool(state_dict.get("stopped"))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take no step more where the fit was stopped before, and only its test is left."""
        super().on_train_start(trainer, pl_module)
        if self._stopped:
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the end of a fit, if that is not done."""
        super().on_train_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))


def _as_planned(trainer: lightning.Trainer) -> bool:
    """Whether the fit has taken all its steps: our modules then set `should_stop` themselves."""
    planned = getattr(trainer.lightning_module, "total_steps", None)  # a module of another kind has no such method
    return trainer.global_step == (planned() if callable(planned) else trainer.max_steps)


def follow_folders(trainer: lightning.Trainer, checkpoint: dict[str, Any]) -> None:
    """Write the folders as they are now into the states of a loaded checkpoint's `ModelCheckpoint`s.

    A state whose best file does not lie in the new folder stays as it is: then the files were not moved.
    """
    states = checkpoint.get("callbacks", {})
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not isinstance(callback, ModelCheckpoint) or state is None or not state["dirpath"]:
            continue
        old, new = Path(state["dirpath"]), Path(callback.dirpath or "")
        best = _moved(state["best_model_path"], old, new)
        if old != new and trainer.strategy.broadcast(not best or Path(best).exists()):
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = _moved(state[name], old, new)
            state["best_k_models"] = {_moved(path, old, new): each for path, each in state["best_k_models"].items()}
            state["dirpath"] = str(new)


def _moved(path: str, old: Path, new: Path) -> str:
    return str(new / Path(path).relative_to(old)) if path and Path(path).is_relative_to(old) else path


def best_keeper(trainer: lightning.Trainer) -> ModelCheckpoint | None:
    """The callback that knows the best checkpoint: a `BestCheckpoint`, else the first that monitors something."""
    kept = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) and each.monitor]
    return next((each for each in kept if isinstance(each, BestCheckpoint)), kept[0] if kept else None)


def name_best(trainer: lightning.Trainer, keeper: ModelCheckpoint, folder: Path) -> None:
    """Let `best.ckpt` in a folder be the best checkpoint of a callback, if it has a file. All ranks must call it."""
    path = Path(keeper.best_model_path)
    if trainer.is_global_zero and path.exists():
        give_name(path, folder / f"{BEST}.ckpt")
    trainer.strategy.barrier("name_best")


def give_name(path: Path, name: Path) -> None:
    """Let `name` be another name of a file, or of a sharded checkpoint's folder, in one step; a copy if need be."""
    if name.exists() and name.samefile(path):
        return
    fresh = name.with_name(f".{name.name}.{os.getpid()}")
    if path.is_dir():
        fresh.symlink_to(os.path.relpath(path, name.parent), target_is_directory=True)
    else:
        try:
            os.link(path, fresh)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, fresh)
    fresh.replace(name)
