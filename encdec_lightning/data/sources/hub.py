"""Data sets of the Hugging Face Hub, opened by `datasets`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from encdec_lightning.cache.entries import read_note, say, write_note
from encdec_lightning.cache.fingerprints import file_hash, state
from encdec_lightning.data.sources.locations import HubSplit
from encdec_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 1000  # read at once


def load(field: str, place: HubSplit, cache: Path) -> Dataset:
    """The split, downloaded when the cache of `datasets` lacks it; raises `UserError` when it cannot be had.

    Without a network `datasets` takes whatever revision it has used last, and it does not look at the content of what
    it keeps. So `cache` remembers which files belong to a revision and what they held: others are refused, damaged ones
    made anew, as are those of a folder that has changed. Data sets that are loading scripts are refused too: `datasets`
    4 runs none. Many have a converted copy, which the revision refs/convert/parquet names.
    """
    try:
        import datasets
    except ImportError as error:
        expected = "it needs the package datasets, pip install 'encdec_lightning[hub]'"
        raise UserError(field, f"hub:{place.dataset}", expected) from error

    local = Path(place.dataset).is_dir()
    asked = hashlib.sha256(f"{place.dataset} {place.revision} {place.configuration}".encode()).hexdigest()[:16]
    note = cache / "hub" / asked
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # a cache that cannot be written is only read
            note.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(note.with_name(f".{asked}.lock")))
        known = read_note(note) or {}
        origin = _states(Path(place.dataset)) if local else None
        for file in (Path(known.get("where", ""), name) for name in known.get("content", {})):
            if file.exists() and not file.is_file():  # `datasets` would wait for ever, or say something else
                raise UserError(field, f"hub:{place.dataset}", f"{file}, which `datasets` keeps, is no file: remove it")
        changed = known.get("origin") != origin
        dataset = _healed(field, place) if known and not changed else _load(field, place, anew=changed)
        where = str(Path(dataset.cache_files[0]["filename"]).parent)
        if datasets.config.HF_HUB_OFFLINE and not local and known.get("where") != where and (known or place.revision):
            expected = "without a network `datasets` offers another revision; run encdec-prepare for this one again"
            raise UserError(field, f"hub:{place.dataset}@{place.revision or 'main'}", expected)
        content = {file.name: file_hash(file, cache) for file in files(dataset)}
        before = known.get("content", {}) if known.get("where") == where and not changed else {}
        damaged = [name for name, found in content.items() if before.get(name, found) != found]
        if damaged:
            say(f"{Path(where) / damaged[0]}, which `datasets` keeps, is damaged: it is made anew")
            dataset = _load(field, place, anew=True)
            content = {file.name: file_hash(file, cache) for file in files(dataset)}
        with suppress(OSError):  # building finds out that the cache cannot be written
            write_note(note, {"where": where, "origin": origin, "content": {**before, **content}})
    return dataset


def _healed(field: str, place: HubSplit) -> Dataset:
    """The split, made anew where `datasets` cannot read what it keeps."""
    try:
        return _load(field, place, anew=False)
    except UserError:
        dataset = _load(field, place, anew=True)
    say(f"what `datasets` keeps of {place.dataset} was damaged: it has been made anew")
    return dataset


def _load(field: str, place: HubSplit, anew: bool) -> Dataset:
    """The split; `anew` if `datasets` shall not trust what it keeps, downloads aside."""
    import datasets

    mode = datasets.DownloadMode.REUSE_CACHE_IF_EXISTS if anew else datasets.DownloadMode.REUSE_DATASET_IF_EXISTS
    folder = None  # where `datasets` puts all folders that have one name, and takes one for the other
    if Path(place.dataset).is_dir():
        name = hashlib.sha256(str(Path(place.dataset).resolve()).encode()).hexdigest()[:16]
        folder = str(Path(datasets.config.HF_DATASETS_CACHE) / f"folder-{name}")
    try:
        dataset = datasets.load_dataset(
            place.dataset,
            place.configuration,
            split=place.split,
            revision=place.revision,
            keep_in_memory=False,
            download_mode=mode,
            cache_dir=folder,
        )
    except Exception as error:  # whatever `datasets` trips over in what others wrote
        reason = " ".join(str(error).split())[:300].rstrip(".")
        hint = (
            "; its converted copy may be at @refs/convert/parquet"
            if "scripts are no longer supported" in reason
            else ""
        )
        raise UserError(field, f"hub:{place.dataset}", f"`datasets` cannot load it ({reason}){hint}") from error
    if not dataset.cache_files:
        raise UserError(field, f"hub:{place.dataset}", "`datasets` keeps no file of it on this machine")
    return dataset


def _states(folder: Path) -> list[list[Any]]:
    """What differs once a file of a folder was changed."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return [[path.relative_to(folder).as_posix(), *state(path)] for path in sorted(paths) if path.exists()]


def files(dataset: Dataset) -> list[Path]:
    """The files on this machine that hold it."""
    return [Path(file["filename"]) for file in dataset.cache_files]


def batches(dataset: Dataset) -> Iterator[Any]:
    """Its rows as Arrow tables, a bounded number of rows in memory."""
    yield from dataset.with_format("arrow").iter(batch_size=ROWS)
