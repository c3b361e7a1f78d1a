"""Data sets of the Hugging Face Hub, opened by `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_lightning.data.locations import HubSplit
from encdec_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 1000  # read at once


def load(field: str, place: HubSplit) -> Dataset:
    """The split, downloaded when the cache of `datasets` lacks it; raises `UserError` when it cannot be had.

    Data sets that are loading scripts are refused: `datasets` 4 runs none. Many have a converted copy, which the
    revision refs/convert/parquet names.
    """
    import datasets

    try:
        return datasets.load_dataset(
            place.dataset, name=place.configuration, split=place.split, revision=place.revision
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        hint = (
            "; its converted copy may be at @refs/convert/parquet"
            if "scripts are no longer supported" in reason
            else ""
        )
        raise UserError(field, f"hub:{place.dataset}", f"`datasets` cannot load it ({reason}){hint}") from error


def files(dataset: Dataset) -> list[Path]:
    """The files on this machine that hold it."""
    return [Path(file["filename"]) for file in dataset.cache_files]


def rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Its rows, a bounded number of them in memory."""
    for table in dataset.with_format("arrow").iter(batch_size=ROWS):
        yield from table.to_pylist()
