"""Data sets of the Hugging Face Hub, opened by `datasets`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_lightning.data.locations import HubSplit
from encdec_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 1000  # read at once


def load(field: str, place: HubSplit, cache: Path) -> Dataset:
    """The split, downloaded when the cache of `datasets` lacks it; raises `UserError` when it cannot be had.

    Without a network `datasets` takes whatever revision it has used last. So `cache` remembers which files belong to a
    revision, and others are refused. Data sets that are loading scripts are refused too: `datasets` 4 runs none. Many
    have a converted copy, which the revision refs/convert/parquet names.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(
            place.dataset, place.configuration, split=place.split, revision=place.revision, keep_in_memory=False
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        hint = (
            "; its converted copy may be at @refs/convert/parquet"
            if "scripts are no longer supported" in reason
            else ""
        )
        raise UserError(field, f"hub:{place.dataset}", f"`datasets` cannot load it ({reason}){hint}") from error
    if not dataset.cache_files:
        raise UserError(field, f"hub:{place.dataset}", "`datasets` keeps no file of it on this machine")
    where = str(Path(dataset.cache_files[0]["filename"]).parent)
    asked = hashlib.sha256(f"{place.dataset} {place.revision} {place.configuration}".encode()).hexdigest()[:16]
    remembered = cache / "hub" / asked
    if datasets.config.HF_HUB_OFFLINE and not Path(place.dataset).is_dir():
        known = remembered.read_text(encoding="utf-8") if remembered.is_file() else None
        if known != where and (known or place.revision):
            expected = "without a network `datasets` offers another revision; run encdec-prepare for this one again"
            raise UserError(field, f"hub:{place.dataset}@{place.revision or 'main'}", expected)
    else:
        with suppress(OSError):  # building finds out that the cache cannot be written
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.write_text(where, encoding="utf-8")
    return dataset


def files(dataset: Dataset) -> list[Path]:
    """The files on this machine that hold it."""
    return [Path(file["filename"]) for file in dataset.cache_files]


def batches(dataset: Dataset) -> Iterator[Any]:
    """Its rows as Arrow tables, a bounded number of rows in memory."""
    yield from dataset.with_format("arrow").iter(batch_size=ROWS)
