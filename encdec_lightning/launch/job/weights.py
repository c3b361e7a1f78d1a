"""Which weights a run starts from, and with which it is tested."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import torch
from torch import Tensor

from encdec_lightning.composition.lora import is_factor, merged
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError
from encdec_lightning.files import damage, kind_of
from encdec_lightning.run import Run
from encdec_lightning.training.callbacks.checkpoints import best_keeper, name_best
from encdec_lightning.training.checkpoint import load_checkpoint
from encdec_lightning.training.task_module import TaskModule


def start_from(module: TaskModule, folder: str) -> None:
    """Take the weights of another run's best checkpoint, or of its last where it has no best one.

    What LoRA has learnt there is a part of these weights; what it learns here starts anew.
    """
    state = _plain_state(Run.open(folder, "init_from").best_or_last(), type(module))
    own = {name: value for name, value in module.state_dict().items() if is_factor(name)}
    try:
        module.load_state_dict({**own, **state})
    except RuntimeError as error:
        raise UserError("init_from", folder, "its model has other parameters than this run's") from error
    loaded = module.state_dict()
    if not all(torch.equal(value.to(loaded[name].dtype), loaded[name]) for name, value in state.items()):
        raise UserError("init_from", folder, "its model shares fewer parameters than this run's (model.weights)")


def _plain_state(path: Path, kind: type[TaskModule]) -> dict[str, Tensor]:
    """The values of a checkpoint's module, LoRA's factors merged into the weights."""
    state: dict[str, Tensor] = load_checkpoint(path, "cpu")["state_dict"]
    if not any(map(is_factor, state)):
        return state
    module = kind.load_from_checkpoint(path)
    module.model = merged(module.model)
    return module.state_dict()


def chosen_checkpoint(run: Run, config: Config, trainer: lightning.Trainer) -> Path:
    """The checkpoint to test after a fit. All ranks must call it: a callback's best one gets its name in the run."""
    keeper = best_keeper(trainer)
    if keeper is not None and keeper.best_model_path:
        name_best(trainer, keeper, run.checkpoints)
    best = run.checkpoints / "best.ckpt"
    if config.checkpoint == "best" and kind_of(best) != "folder" and damage(best) is not None:
        if trainer.is_global_zero:
            why = f"{best}: {damage(best)}" if best.exists() else "the fit has made no best one, or it is gone"
            print(f"checkpoint is 'best': {why}, the last one is tested.", file=sys.stderr)
        return run.checkpoint("last")
    return run.checkpoint(config.checkpoint)
