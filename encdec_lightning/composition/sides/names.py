"""Names of a side's parameters, and what the names tell about them."""

from __future__ import annotations

import re

from transformers import PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.options import Side

LAYER = re.compile(r"\.(\d+)\.")  # the first number in a parameter's name


def base_prefix(side: Side, model: PreTrainedModel) -> str:
    """What stands in front of the base model's names in those of a side's parameters."""
    return "" if side.role == "encoder" else f"{model.base_model_prefix}."


def parameter_names(side: Side, model: PreTrainedModel) -> list[str]:
    """A name for each parameter: a head's that is the word embeddings goes by the embeddings' name."""
    base = base_prefix(side, model)
    everything = sorted(model.named_parameters(remove_duplicate=False), key=lambda each: not each[0].startswith(base))
    names: dict[int, str] = {}
    for name, parameter in everything:
        names.setdefault(id(parameter), name)
    return list(names.values())


def computed(side: Side, model: PreTrainedModel) -> set[str]:
    """Names of a side's parameters that are neither drawn nor a checkpoint's, but computed (sinusoids)."""
    start = tuple(f"{base_prefix(side, model)}{part}" for part in architecture_of(model.config).computed)
    return {name for name, _ in model.named_parameters() if start and name.startswith(start)}


def untrainable(side: Side, model: PreTrainedModel) -> set[str]:
    """Names of a side's parameters that are computed, or that no output depends on: DDP waits for their gradients."""
    unused = architecture_of(model.config).unused
    return computed(side, model) | {
        name for name, _ in model.named_parameters() if any(part in name for part in unused)
    }
