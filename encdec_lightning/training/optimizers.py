"""Parameter groups and the optimizer over them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from encdec_lightning.training.options import Training

Group = dict[str, Any]
OptimizerFactory = Callable[[list[Group]], torch.optim.Optimizer]

default_optimizer: OptimizerFactory = functools.partial(torch.optim.AdamW, fused=True)


def parameter_groups(model: PreTrainedModel, training: Training, fresh: Iterable[str]) -> list[Group]:
    """Groups by learning rate and weight decay; a shared tensor is in one group only, once.

    `fresh` names the parameters that started at random.
    """
    started_at_random = set(fresh)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():  # each Parameter object once
        if not parameter.requires_grad:
            continue
        rate = training.fresh_learning_rate if name in started_at_random else None
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate or training.learning_rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]
