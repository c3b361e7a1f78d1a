"""How a model is made ready for a fit: layers that compute their activations again, are compiled, and are sharded."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.errors import UserError
from encdec_lightning.training.fsdp import is_sharded, layer_groups, shard
from encdec_lightning.training.options import Training

COMPILERS = ("g++", "clang++", "c++")
BACKEND = "inductor"
"""What `training.compile` compiles with; tests take another one, which is faster at compiling."""


def arrange(model: ComposedModel, training: Training, mesh: DeviceMesh | None) -> None:
    """Do to a model what the options say, and share it out over a mesh's ranks if there is one; once.

    Layers are compiled one by one, so that what is compiled once serves all that are alike.
    """
    if is_sharded(model):
        return
    if training.gradient_checkpointing:
        enable: Any = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable()  # which transformers renames
    if training.compile:
        for layer in (layer for group in layer_groups(model) for layer in group):
            layer.compile(dynamic=True, backend=BACKEND)
    shard(model, mesh)


def check_checkpointing(model: ComposedModel, training: Training) -> None:
    """Raise `UserError` if a side cannot compute its activations again."""
    for side in model.sides.values():
        if training.gradient_checkpointing and not side.supports_gradient_checkpointing:
            expected = f"transformers' {side.config.model_type} cannot compute activations again, leave it away"
            raise UserError("training.gradient_checkpointing", True, expected)


def why_not_compiled(device: str) -> str | None:
    """What this machine lacks to compile for a kind of device (cpu, cuda), in words; None if nothing is."""
    if device == "cuda":
        return None if importlib.util.find_spec("triton") else "it needs the package triton, which is not installed"
    found = [name for name in (os.environ.get("CXX"), *COMPILERS) if name and shutil.which(name)]
    return None if found else "it needs a C++ compiler, and neither CXX nor PATH names one"
