"""Where derived data lie on disk."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(chosen: str | None = None) -> Path:
    """`chosen`, else $ENCDEC_LIGHTNING_CACHE, else `encdec_lightning` in the user's cache folder."""
    given = chosen or os.environ.get("ENCDEC_LIGHTNING_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "encdec_lightning"


def kept_checkpoints() -> Path:
    """Where checkpoints lie that were fetched or made, each in a folder `<owner>--<name>`."""
    return cache_folder() / "checkpoints"
