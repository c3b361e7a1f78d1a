"""A fit that goes on from a checkpoint: weights in their precision, batches counted as the plan now has them."""

from __future__ import annotations

from typing import Any

import lightning

from encdec_lightning.data.batches.loader import PlanLoader
from encdec_lightning.training.callbacks.random_state import STEP, RandomState
from encdec_lightning.training.checkpoint import check_fit


def prepare_to_resume(module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Before Lightning takes a checkpoint's values; raises `UserError` for a checkpoint of another model.

    Lightning would copy weights of 64-true into a module in fp32, which it converts later: it is converted first.
    """
    check_fit(module.trainer.ckpt_path or "", module, checkpoint["state_dict"])
    module.trainer.precision_plugin.convert_module(module)
    _complete_epoch(checkpoint)
    _to_whole_step(module.trainer, checkpoint)
    _count_anew(module.trainer, checkpoint)


def _complete_epoch(checkpoint: dict[str, Any]) -> None:
    """Count an epoch as complete exactly where all of its batches are behind a checkpoint.

    Lightning counts one as it ends, and one that a bound of steps cuts off as complete. From the end of an epoch it
    would end that a second time, so that callbacks miss its validation's scores, or without validation train a batch of
    the next epoch as one more of it. It would leave out what is left of one that was cut off.
    """
    fit = checkpoint["loops"].get("fit_loop", {})
    counts = fit.get("epoch_progress")
    if counts is None or not 0 < counts["total"]["ready"] == counts["total"]["processed"]:
        return
    ours = _position(fit) is not None
    if not ours and counts["total"]["completed"] == counts["total"]["processed"]:
        return
    batches = fit["epoch_loop.batch_progress"]
    if ours and not batches["is_last_batch"]:
        for count in counts.values():
            count["processed"] = count["completed"] = count["ready"] - 1
        return
    for count in counts.values():
        count["completed"] = count["processed"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False


def _to_whole_step(trainer: lightning.Trainer, checkpoint: dict[str, Any]) -> None:
    """Go back to the end of the last whole optimizer step, where a checkpoint was saved within one.

    It has neither the gradients of the step's first batches nor a batch that was read and not yet trained; Lightning
    would leave them out. So these batches are trained again, with the random numbers of then.
    """
    fit = checkpoint["loops"].get("fit_loop", {})
    state, epochs = _position(fit), fit.get("epoch_progress", {}).get("total")
    if state is None or epochs["ready"] == epochs["processed"]:
        return
    batches = fit["epoch_loop.batch_progress"]
    current = batches["current"]
    whole = current["processed"] - current["processed"] % trainer.accumulate_grad_batches
    if current["ready"] == current["processed"] and (whole == current["ready"] or batches["is_last_batch"]):
        return
    for name, count in current.items():
        batches["total"][name] -= count - whole
        current[name] = whole
    batches["is_last_batch"], state["yielded"] = False, whole
    states = checkpoint["callbacks"].get(RandomState.__qualname__, {})
    if states.get(STEP):
        states["states"] = states[STEP]


def _count_anew(trainer: lightning.Trainer, checkpoint: dict[str, Any]) -> None:
    """Give a checkpoint of an epoch's end the number of batches that its steps have in the plan of this fit.

    Another number of devices makes another plan, and Lightning decides by the number of batches when a step is due.
    """
    data: Any = getattr(trainer, "datamodule", None)
    fit = checkpoint["loops"].get("fit_loop", {})
    state = _position(fit)
    if data is None or state is None or state["yielded"]:
        return
    loader = data.train_dataloader()
    if not isinstance(loader, PlanLoader) or loader.origin.plan == state["plan"]:
        return
    progress = fit["epoch_loop.batch_progress"]
    of_epoch = len(loader) if progress["current"]["ready"] else 0
    for name in progress["current"]:
        progress["current"][name] = of_epoch
        progress["total"][name] = checkpoint["global_step"] * data.micro_batches


def _position(fit: dict[str, Any]) -> dict[str, Any] | None:
    """The state of the one `PlanLoader` that a checkpoint's fit has read; none: it has read others."""
    states = fit.get("state_dict", {}).get("combined_loader", [])
    return states[0] if len(states) == 1 and "plan" in states[0] else None
