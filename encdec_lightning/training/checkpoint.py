"""Checkpoints without pickles: small folders inside as tensors, all of it loaded with `weights_only=True`."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from encdec_lightning.errors import UserError

T = TypeVar("T")


def load_checkpoint(path: str | Path, map_location: torch.device | str) -> dict[str, Any]:
    """A checkpoint that a module of ours has written; raises `UserError` for another or a damaged file."""
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError("checkpoint", str(path), "it cannot be read as a checkpoint of plain values") from error
    if not isinstance(checkpoint, dict) or "encdec_lightning" not in checkpoint:
        raise UserError("checkpoint", str(path), "it was not written by encdec_lightning")
    return checkpoint


def pack_folder(write: Callable[[Path], object]) -> dict[str, Tensor]:
    """What `write(folder)` writes: {relative path: bytes as uint8}."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): _tensor(path.read_bytes()) for path in files}


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def unpack_folder(files: dict[str, Tensor], read: Callable[[Path], T]) -> T:
    """`read(folder)` of a folder with these files. A path that leads outside the folder raises `ValueError`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for relative, content in files.items():
            path = (folder / relative).resolve()
            if not path.is_relative_to(folder):
                raise ValueError(f"the checkpoint holds a file outside its folder: {relative!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.cpu().numpy().tobytes())
        return read(folder)
