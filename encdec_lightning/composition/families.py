"""Which family a checkpoint is of, from its config alone: torch and transformers need not be loaded."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from encdec_lightning.files import kind_of

LARGEST_CONFIG = 16 << 20  # bytes of a config; a larger file is something else
SHIPPED = Path(__file__).parent / "configs"
"""Configs of the paper's checkpoints, so that counting and random initialization need no Hub."""


def shipped_config(checkpoint: str) -> dict[str, Any] | None:
    """The values of a published checkpoint's config that ships with this package, under its old or new Hub id.

    None for a named revision, which may have others.
    """
    owner, _, name = checkpoint.rpartition("/")
    file = SHIPPED / f"{name}.json"
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values if values.pop("owner") == owner or not owner else None


def told_family(checkpoint: str) -> str | None:
    """The `model_type` that a checkpoint's config tells, one that ships or that of a folder; else none."""
    folder, values = Path(checkpoint), shipped_config(checkpoint)
    if folder.is_dir():
        values = None
        file = folder / "config.json"
        with suppress(OSError, ValueError, RecursionError):
            if kind_of(file) == "file" and file.stat().st_size <= LARGEST_CONFIG:
                values = json.loads(file.read_text(encoding="utf-8"))
    told = values.get("model_type") if isinstance(values, dict) else None
    return told if isinstance(told, str) else None
