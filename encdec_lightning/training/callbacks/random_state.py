"""Random generators in the checkpoint, so that a resumed fit draws what the uninterrupted one would have."""

from __future__ import annotations

import random
from typing import Any

import lightning
import numpy as np
import torch
from torch import distributed

State = dict[str, Any]
STEP = "step"
"""What the states of a step's begin are called in a checkpoint."""


class RandomState(lightning.Callback):
    """Keeps the generators of every rank: Python's, numpy's, torch's, and the rank's accelerator's."""

    def __init__(self) -> None:
        self._loaded: list[State] = []
        self._step: State | None = None

    def state_dict(self) -> dict[str, Any]:
        """The states now, and those that the current optimizer step began with (`resuming.py` may go back there).

        Of each rank one: Lightning writes rank 0's answer, so all are gathered.
        """
        states = [(_capture(), self._step)]
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(gathered, states[0])
            states = gathered
        steps = [step for _, step in states if step is not None]
        return {"states": [now for now, _ in states], STEP: steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until training starts: what happens in between may draw."""
        self._loaded = state_dict["states"]

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore this rank's generators."""
        if trainer.global_rank < len(self._loaded):
            _restore(self._loaded[trainer.global_rank])
        self._loaded = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, index: int
    ) -> None:
        """Remember what a step begins with."""
        if index % trainer.accumulate_grad_batches == 0:
            self._step = _capture()


def _capture() -> State:
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None,
    }


def _restore(state: State) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
