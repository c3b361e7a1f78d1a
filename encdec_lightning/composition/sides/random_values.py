"""A side whose values are drawn at random: the shape that the config says, and nothing of a checkpoint."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.foreign import built
from encdec_lightning.composition.options import Side


def random_encoder(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """An encoder of this config, drawn from torch's global generator."""
    architecture = architecture_of(config)
    arguments = dict(architecture.encoder_arguments)
    encoder = built(architecture.encoder_class, config, dtype=dtype, **arguments)
    drop_pooler(encoder)
    in_one_dtype(encoder, dtype)
    return encoder


def in_one_dtype(encoder: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Convert the parameters that have another dtype than the model: deberta's biases are fp32 in every model.

    Buffers of fp32 stay.
    """
    for parameter in encoder.parameters():
        if parameter.dtype != (dtype or encoder.dtype):
            parameter.data = parameter.data.to(dtype or encoder.dtype)


def random_decoder(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A decoder of this config, drawn from torch's global generator."""
    return built(architecture_of(config).decoder_class, config, dtype=dtype)


def random_side(side: Side, config: PretrainedConfig) -> PreTrainedModel:
    """A side of this config, drawn from torch's global generator."""
    return random_encoder(config) if side.role == "encoder" else random_decoder(config)


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Take away a pooler, which nothing here reads and a saved model would reload at random; some families call it."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = torch.nn.Identity()
