"""A fit that goes on from a checkpoint: weights in their precision, batches counted as the plan now has them."""

from __future__ import annotations

from typing import Any

import lightning

from encdec_lightning.data.batches.loader import PlanLoader
from encdec_lightning.training.checkpoint import check_fit


def prepare_to_resume(module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Before Lightning takes a checkpoint's values; raises `UserError` for a checkpoint of another model.

    Lightning would copy weights of 64-true into a module in fp32, which it converts later: it is converted first.
    """
    check_fit(module.trainer.ckpt_path or "", module, checkpoint["state_dict"])
    module.trainer.precision_plugin.convert_module(module)
    _complete_epoch(checkpoint)
    _count_anew(module.trainer, checkpoint)


def _complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Count an epoch as complete whose end a checkpoint was saved at.

    Where a fit is bounded by steps, Lightning would end it a second time, and callbacks miss its validation's scores.
    """
    fit = checkpoint["loops"].get("fit_loop", {})
    counts = fit.get("epoch_progress")
    if counts is None or counts["total"]["processed"] != counts["total"]["completed"] + 1:
        return
    for count in counts.values():
        count["completed"] = count["processed"]
    batches = fit["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def _count_anew(trainer: lightning.Trainer, checkpoint: dict[str, Any]) -> None:
    """Give a checkpoint of an epoch's end the number of batches that its steps have in the plan of this fit.

    Another number of devices makes another plan, and Lightning decides by the number of batches when a step is due.
    """
    data: Any = getattr(trainer, "datamodule", None)
    fit = checkpoint["loops"].get("fit_loop", {})
    states = fit.get("state_dict", {}).get("combined_loader", [])
    if data is None or len(states) != 1 or "plan" not in states[0] or states[0]["yielded"]:
        return
    loader = data.train_dataloader()
    if not isinstance(loader, PlanLoader) or loader.origin.plan == states[0]["plan"]:
        return
    progress = fit["epoch_loop.batch_progress"]
    of_epoch = len(loader) if progress["current"]["ready"] else 0
    for name in progress["current"]:
        progress["current"][name] = of_epoch
        progress["total"][name] = checkpoint["global_step"] * data.micro_batches
