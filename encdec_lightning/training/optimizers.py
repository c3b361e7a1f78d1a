"""Parameter groups and the optimizer over them; how gradients are clipped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from transformers import PreTrainedModel

from encdec_lightning.errors import UserError
from encdec_lightning.training.fsdp import FullyShardedStrategy
from encdec_lightning.training.options import Training

Group = dict[str, Any]
OptimizerFactory = Callable[[list[Group]], torch.optim.Optimizer]

default_optimizer: OptimizerFactory = functools.partial(torch.optim.AdamW, fused=True)


def parameter_groups(model: PreTrainedModel, training: Training, fresh: Iterable[str]) -> list[Group]:
    """Groups by learning rate, weight decay and steps of warm-up; a shared tensor is in one group only, once.

    `fresh` names the parameters that started at random. Where the sides share a tensor it is the encoder's. One
    optimizer over groups does what Liu & Lapata's two do (section 3.2), for its state is each parameter's own. Raises
    `UserError` where an option of the encoder is given and no encoder is trained.
    """
    check_encoder_is_trained(model, training)
    started_at_random = set(fresh)
    groups: dict[tuple[float, float, int], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():  # each Parameter object once, the encoder's first
        if not parameter.requires_grad:
            continue
        rate = training.fresh_learning_rate if name in started_at_random else None
        warmup = None
        if name.startswith("encoder."):
            rate, warmup = rate or training.encoder_learning_rate, training.encoder_warmup_steps
        decay = training.weight_decay if parameter.ndim > 1 else 0.0
        kind = rate or training.learning_rate, decay, training.warmup_steps if warmup is None else warmup
        groups.setdefault(kind, []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": decay, "warmup_steps": warmup}
        for (rate, decay, warmup), members in groups.items()
    ]


def check_encoder_is_trained(model: PreTrainedModel, training: Training) -> None:
    """Raise `UserError` where an option of the encoder is given and none of its parameters is trained."""
    for option in ("encoder_learning_rate", "encoder_warmup_steps"):
        value = getattr(training, option)
        trained = (each.requires_grad for name, each in model.named_parameters() if name.startswith("encoder."))
        if value is not None and not any(trained):
            raise UserError(f"training.{option}", value, "no encoder is trained; leave it away")


def clip(
    module: lightning.LightningModule,
    optimizer: torch.optim.Optimizer,
    value: float | None,
    algorithm: str | None,
    norm: Tensor | None,
) -> None:
    """Clip as a Trainer says, also with a fused optimizer in bf16 and fp16.

    Lightning refuses that pair, because such an optimizer divides by the scale of fp16's gradients in its step. It does
    not where the scaler has been asked to before, which is done here. `norm`, (), is the 2-norm of all gradients where
    it is known: it is not computed twice where it is every rank's, of unscaled gradients.
    """
    plugin = module.trainer.precision_plugin
    kind = GradClipAlgorithmType(algorithm or GradClipAlgorithmType.NORM)
    whole = isinstance(module.trainer.strategy, SingleDeviceStrategy | DDPStrategy | FullyShardedStrategy)
    whole = whole and getattr(plugin, "scaler", None) is None
    if value and norm is not None and whole and kind == GradClipAlgorithmType.NORM:
        clip_grads_with_norm_([each for group in optimizer.param_groups for each in group["params"]], value, norm)
    elif isinstance(plugin, MixedPrecision) and (plugin.scaler is None or optimizer.defaults.get("fused")):
        if value and plugin.scaler is not None:
            plugin.scaler.unscale_(optimizer)
        Precision.clip_gradients(plugin, optimizer, value or 0.0, kind)
    else:
        module.clip_gradients(optimizer, value, algorithm)
