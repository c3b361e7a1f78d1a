"""Where a fit stands within a step, and what follows the step: a validation, or the end."""

from __future__ import annotations

import math

import lightning


def ends_step(trainer: lightning.Trainer, index: int) -> bool:
    """Whether the micro-batch of this number was the last one of an optimizer step; an epoch's last one always is."""
    return (index + 1) % trainer.accumulate_grad_batches == 0 or is_last_of_epoch(trainer)


def is_last_of_epoch(trainer: lightning.Trainer) -> bool:
    """Whether the batch that is at work is its epoch's last one."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def is_last_step(trainer: lightning.Trainer) -> bool:
    """Whether the fit ends after this step; Lightning then validates first where it can."""
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early  # not before `min_steps` and `min_epochs`
    return stops or trainer.global_step == trainer.max_steps or (is_last_of_epoch(trainer) and last_epoch)


def validation_follows(trainer: lightning.Trainer, index: int) -> bool:
    """Whether Lightning validates after this batch; no, where it does so by the clock, which no checkpoint stops."""
    loop, every, by_epoch = trainer.fit_loop.epoch_loop, trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or every is None:
        return False
    if by_epoch is not None and (trainer.current_epoch + 1) % by_epoch:
        return False
    if every == math.inf:
        return is_last_of_epoch(trainer)
    counted = loop.total_batch_idx if by_epoch is None else index
    return (counted + 1) % every == 0
