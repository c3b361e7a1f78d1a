"""Checkpoints of a fit: written whole beside their place, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from encdec_lightning.errors import UserError
from encdec_lightning.files import replacing
from encdec_lightning.training.checkpoint import read_checkpoint

NEEDED = {
    "state_dict": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}
"""What Lightning continues a fit from, by type."""


class DurableCheckpointIO(TorchCheckpointIO):
    """A plugin of Lightning's Trainer for checkpoints that no kill, power cut or full disk can destroy.

    Lightning writes a checkpoint into the temporary folder and moves it; where that is another file system, moving
    copies, and a kill meanwhile leaves half a file instead of the checkpoint of before. Here a checkpoint is written
    beside its place, by torch straight into the file, is brought to the disk and then renamed. When it is read, its
    checksums are checked, and nothing is unpickled but plain values and tensors. Paths of other systems (`s3://`) are
    written as Lightning does.

    Args:
        previous: {a checkpoint's path: where the one of before stays when a new one takes its place}.
    """

    def __init__(self, previous: Mapping[Path, Path] | None = None) -> None:
        super().__init__()
        self._previous = dict(previous or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; raises `UserError` when that cannot be, and then leaves the one of before as it is."""
        if storage_options is not None or _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        with replacing(target, self._previous.get(target)) as stream:
            torch.save(checkpoint, stream)  # type: ignore[arg-type]  # it only writes

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """What a checkpoint of a fit holds, plain values and tensors alone, whatever `weights_only` is.

        Raises `UserError` for a damaged or foreign one.
        """
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        checkpoint = read_checkpoint(path, map_location)
        for name, kind in NEEDED.items():
            if not isinstance(checkpoint.get(name), kind):
                raise UserError(
                    "checkpoint", str(path), f"its {name} is no {kind.__name__}, a fit cannot go on from it"
                )
        return checkpoint


def _is_remote(path: Any) -> bool:
    return "://" in str(path)
