"""Checkpoints without pickles: small folders inside as tensors, all of it loaded with `weights_only=True`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from encdec_lightning.composition.checkpoints import one_line
from encdec_lightning.errors import UserError
from encdec_lightning.files import damage
from encdec_lightning.training.pieces import joined, piece_damage

KEPT = ("model", "generation_config", "tokenizers", "task", "training")
"""What a module of ours keeps beside the weights, each a mapping."""
T = TypeVar("T")


def load_checkpoint(path: str | Path, map_location: torch.device | str) -> dict[str, Any]:
    """A checkpoint that a module of ours has written; raises `UserError` for another or a damaged file.

    Its checksums are checked, for torch does not look at them.
    """
    checkpoint = read_checkpoint(path, map_location)
    kept = checkpoint.get("encdec_lightning")
    if kept is None:
        raise UserError("checkpoint", str(path), "it was not written by encdec_lightning")
    for place, values, names in (("", checkpoint, ("state_dict",)), ("encdec_lightning.", kept, KEPT)):
        for name in names:
            if not isinstance(values, dict) or not isinstance(values.get(name), dict):
                raise UserError("checkpoint", str(path), f"its {place}{name} is no mapping, another program wrote it")
    for place, tensors in (("state_dict", checkpoint["state_dict"]), ("tokenizers", kept["tokenizers"])):
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()):
            raise UserError("checkpoint", str(path), f"its {place} holds other things than tensors")
    return checkpoint


def read_checkpoint(path: str | Path, map_location: Any) -> dict[Any, Any]:
    """What any checkpoint of torch holds, plain values and tensors alone, its pieces joined; raises `UserError`."""
    read = partial(read_file, map_location=map_location)
    return joined(read(path), Path(path), read)


def checkpoint_damage(path: str | Path) -> str | None:
    """What is wrong with the file of a checkpoint, or with those of its pieces; None if nothing is."""
    wrong = damage(path)
    if wrong is not None:
        return wrong
    try:
        return piece_damage(read_file(path, "meta"), Path(path))
    except UserError:
        return None  # whoever loads it is told that it is none of ours


def read_file(path: str | Path, map_location: Any) -> dict[Any, Any]:
    """What one file of a checkpoint holds; on the device `meta` no tensor is read."""
    wrong = damage(path)
    if wrong is not None:
        raise UserError("checkpoint", str(path), f"it cannot be read as a checkpoint: {wrong}")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever torch trips over in what others wrote
        raise UserError("checkpoint", str(path), "it cannot be read as a checkpoint of plain values") from error
    if not isinstance(checkpoint, dict):
        raise UserError("checkpoint", str(path), "it was not written by encdec_lightning")
    return checkpoint


@contextmanager
def taken_from(path: str | Path, what: str) -> Iterator[None]:
    """What fails in here does so by the values of a checkpoint, and becomes a `UserError` that names it."""
    try:
        yield
    except Exception as error:
        reason = error.expected if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        raise UserError("checkpoint", str(path), f"its {what} cannot be right ({reason})") from error


def check_fit(path: str | Path, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Raise `UserError` unless a checkpoint's tensors are those of a module, by name and shape."""
    own = module.state_dict()
    for name in sorted(own.keys() ^ state.keys()):
        lacks = "lacks" if name in own else "has a tensor that the model lacks,"
        raise UserError("checkpoint", str(path), f"its state_dict {lacks} {name}")
    for name, value in own.items():
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, the model's is {tuple(value.shape)}"
            raise UserError("checkpoint", str(path), f"its tensor {name} is {shapes}")


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
