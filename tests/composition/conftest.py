"""A tiny model of every family, made when a test first asks for it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny
import torch

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.compatibility import ComposedModel
from encdec_lightning.composition.compose import compose


@pytest.fixture(scope="session")
def probe(files: tiny.Files, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(role, family) -> its model beside a bert, in evaluation mode, made once; with the options of its composition."""
    folder = tmp_path_factory.mktemp("families")

    @functools.cache
    def made(role: str, family: str) -> ComposedModel:
        torch.manual_seed(0)
        return compose(**options(role, family)).eval()

    def options(role: str, family: str) -> dict[str, Any]:
        checkpoint = folder_of(family)
        unmasked = ARCHITECTURES[family].encodes == "unmasked"
        if role.startswith("tied"):
            return {"encoder": checkpoint, "decoder": checkpoint, "weights": role, "encoder_bidirectional": unmasked}
        if role == "encoder":
            return {"encoder": checkpoint, "decoder": files.bert, "encoder_bidirectional": unmasked}
        return {"encoder": files.bert if role == "decoder" else None, "decoder": checkpoint}

    def folder_of(family: str) -> str:
        checkpoint = folder / family
        return str(checkpoint) if checkpoint.exists() else tiny.family_checkpoint(checkpoint, family)

    made.options, made.folder = options, folder_of
    return made
