"""The tokenized examples of a split, built once and kept in the cache under a fingerprint of all that makes them."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from rich.console import Console

from encdec_lightning.cache import cache_folder
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.building import build
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.data.pairs import PairReader, Split
from encdec_lightning.data.preprocessing import code_hash
from encdec_lightning.data.sources import Rows, find_source, hash_of
from encdec_lightning.data.store import OnDisk
from encdec_lightning.errors import UserError

VERSION = 2  # of what a row becomes and of the store's files: part of every fingerprint
READ_FIELDS = ("source", "target", "id", "columns", "max_source_length", "max_target_length")


def prepared(task: Task, loading: Loading, split: Split, tokenizers: Tokenizers) -> OnDisk:
    """A split's examples, from the cache if they are there, else built into it.

    Of several processes one builds and the others wait. A build that is killed leaves nothing that would be taken for
    whole, and the next one clears it away. Raises `UserError` naming the row that is wrong, an empty split, or a cache
    that cannot be written.
    """
    cache = cache_folder(loading.cache)
    source = find_source(task, split, cache)
    folder = cache / "examples" / _key(task, loading, split, tokenizers, source.content(cache))
    try:
        return _whole(folder) or _build_once(folder, task, loading, split, tokenizers, source.rows)
    except OSError as error:
        expected = f"it cannot be written ({error.strerror or error}): free space there or choose another folder"
        raise UserError("data.cache", str(cache), expected) from error


def _whole(folder: Path) -> OnDisk | None:
    """The examples of a folder, or None if it is not there or lacks something."""
    try:
        return OnDisk(folder)
    except (OSError, ValueError, KeyError):
        return None


def _build_once(folder: Path, task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, rows: Rows) -> OnDisk:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        built = _whole(folder)  # by the process that this one has waited for
        if built is not None:
            return built
        building = folder.with_name(f".building-{folder.name}")
        shutil.rmtree(building, ignore_errors=True)  # what a killed process has left
        try:
            build(building, task, split, tokenizers, rows, skip_bad_rows=loading.on_bad_row == "skip")
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return OnDisk(folder)


def _lock(folder: Path) -> AcquireReturnProxy[FileLock]:
    """The lock of a folder's builder, held until the end of a with block; waiting for it is said."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        Console(stderr=True).print("waiting for another process that prepares the same examples", highlight=False)
        return lock.acquire()


def _key(task: Task, loading: Loading, split: Split, tokenizers: Tokenizers, content: str) -> str:
    """The fingerprint of what the examples of a split are made from."""
    fields: dict[str, Any] = {name: getattr(task, name) for name in READ_FIELDS}
    fields |= {"examples": getattr(task, f"{split}_examples"), "on_bad_row": loading.on_bad_row}
    if split == "train":
        fields |= {"too_long": task.too_long, "share": task.train_share}
    code = [(name, code_hash(function)) for name, function in PairReader(task, split).functions]
    versions = [VERSION, version("tokenizers")]
    return hash_of([fields, code, versions, tokenizers.signature(), content])[:32]
