"""Pickles that run code when they are loaded."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


class Evil:
    """What a pickle of it does when it is loaded: it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._marker,)


def whole(file: Path, evil: Evil) -> None:
    """Nothing but the pickle, in torch's archive."""
    torch.save(evil, file)


def plain_pickle(file: Path, evil: Evil) -> None:
    """Python's own pickle, which is what torch wrote before it had archives."""
    file.write_bytes(pickle.dumps(evil))
