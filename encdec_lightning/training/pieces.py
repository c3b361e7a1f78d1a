"""Checkpoints in pieces: each rank writes what it holds, and a small file says what belongs to the checkpoint.

`last.ckpt` then holds everything but the pieces, which lie in `pieces/<token>/<rank>.pt` beside it. It appears when all
pieces are on the disk, in one step, so that a checkpoint is whole or not there. Whoever reads it gets the checkpoint
that one process would have written.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import damage, replacing, sync_folder

FOLDER = "pieces"
"""The folder with the pieces, beside the checkpoints."""
KEY = "in_pieces"
"""The entry of a checkpoint that says where its pieces are, and how many."""
TENSORS = ("state_dict", "optimizer_states")
"""The entries of a checkpoint that are in pieces."""
SHAPE, PIECE = "shape_of_whole", "piece"

Read = Callable[[Path], dict[Any, Any]]


def write_pieces(checkpoint: dict[str, Any], path: Path) -> None:
    """Write this rank's pieces and take them out of the checkpoint, which now says where they are.

    All ranks must call this together, with the path of the checkpoint; raises `UserError` on all if one cannot write.
    """
    own = {name: _cut(checkpoint[name], {}) for name in TENSORS if name in checkpoint}
    rank, count = distributed.get_rank(), distributed.get_world_size()
    token = [secrets.token_hex(8)]
    distributed.broadcast_object_list(token)
    folder = path.parent / FOLDER / token[0]
    problem = None
    try:
        with replacing(folder / f"{rank}.pt") as stream:
            torch.save(own, stream)  # type: ignore[arg-type]  # it only writes
        sync_folder(folder.parent)
    except UserError as error:
        problem = (error.field, error.value, error.expected)
    problems: list[Any] = [None] * count
    distributed.all_gather_object(problems, problem)
    found = [UserError(*each) for each in problems if each is not None]
    if found:
        raise UserErrors(found)
    checkpoint |= {name: type(value)() for name, value in own.items()}
    checkpoint[KEY] = {"folder": f"{FOLDER}/{token[0]}", "count": count}


def joined(checkpoint: dict[Any, Any], path: Path, read: Read) -> dict[Any, Any]:
    """A checkpoint with the tensors of its pieces, each whole; one that is not in pieces stays as it is.

    Raises `UserError` where a piece is missing or wrong.
    """
    files = _files(checkpoint, path)
    if not files:
        return checkpoint
    parts = [read(file) for file in files]
    try:
        tensors = {name: _join([part[name] for part in parts], {}) for name in parts[0] if name in TENSORS}
    except (KeyError, IndexError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        raise UserError("checkpoint", str(path), "its pieces do not fit together") from error
    return {**{name: value for name, value in checkpoint.items() if name != KEY}, **tensors}


def piece_damage(checkpoint: dict[Any, Any], path: Path) -> str | None:
    """What is wrong with the files of a checkpoint's pieces; None if nothing is, or there are none."""
    found = ((file, damage(file)) for file in _files(checkpoint, path))
    return next((f"its piece {file.parent.name}/{file.name}: {wrong}" for file, wrong in found if wrong), None)


def drop_unused_pieces(folder: Path, read: Read) -> None:
    """Remove the pieces that no checkpoint in a folder speaks of any more; none while one of those cannot be read.

    One rank alone calls it, `read` need not read tensors.
    """
    if not (folder / FOLDER).is_dir():
        return
    try:
        told = [_files(read(path), path) for path in folder.glob("*.ckpt") if path.is_file()]
    except UserError:
        return
    used = {files[0].parent.name for files in told if files}
    for each in (folder / FOLDER).glob("*"):
        if each.name not in used:
            shutil.rmtree(each, ignore_errors=True)


def _files(checkpoint: dict[Any, Any], path: Path) -> list[Path]:
    """The files of the pieces of a checkpoint; raises `UserError` if they would lie elsewhere than beside it."""
    told = checkpoint.get(KEY)
    if told is None:
        return []
    try:
        token, count = str(told["folder"]).removeprefix(f"{FOLDER}/"), int(told["count"])
        if not token.isalnum() or not 0 < count < 1 << 20:
            raise ValueError(token)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("checkpoint", str(path), "what it says of its pieces cannot be right") from error
    return [path.resolve().parent / FOLDER / token / f"{rank}.pt" for rank in range(count)]


def _cut(value: Any, made: dict[int, dict[str, Any]]) -> Any:
    """Nested values with this rank's pieces of sharded tensors; `made`: by id, what is one tensor stays one."""
    if isinstance(value, DTensor):
        if id(value) not in made:
            made[id(value)] = {SHAPE: list(value.shape), PIECE: value.to_local().detach().cpu()}
        return made[id(value)]
    if isinstance(value, dict):
        return {name: _cut(each, made) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cut(each, made) for each in value)
    return value.detach() if isinstance(value, Tensor) else value


def _join(values: Sequence[Any], made: dict[int, Tensor]) -> Any:
    """All ranks' nested values as one; `made`: by id of the first rank's piece, what is one tensor stays one."""
    first = values[0]
    if isinstance(first, dict) and first.keys() == {SHAPE, PIECE}:
        if id(first) not in made:
            made[id(first)] = torch.cat([each[PIECE] for each in values]).view(first[SHAPE])
        return made[id(first)]
    if isinstance(first, dict):
        return {name: _join([each[name] for each in values], made) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(_join(each, made) for each in zip(*values, strict=True))
    return first
