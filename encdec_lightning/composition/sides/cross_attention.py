"""What is known about cross-attention: its parameters, and its start as a copy of self-attention."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.architectures import CROSS_ATTENTION, FROM_THE_SOURCE, OWN_ATTENTION


def is_cross_attention(name: str) -> bool:
    """Whether a parameter is a part of cross-attention."""
    return any(part in name for part in CROSS_ATTENTION)


def reads_source(name: str) -> bool:
    """Whether a parameter is a part of cross-attention that reads the source: keys and values."""
    return is_cross_attention(name) and any(part in name for part in FROM_THE_SOURCE)


def self_attention_of(decoder: PreTrainedModel) -> dict[str, str] | None:
    """{each cross-attention parameter: the self-attention parameter of the same meaning}; None where they differ."""
    parameters = dict(decoder.named_parameters(remove_duplicate=False))
    pairs = {}
    for name in filter(is_cross_attention, parameters):
        own = name
        for old, new in OWN_ATTENTION.items():
            own = own.replace(old, new)
        if own == name or own not in parameters or _columns(parameters[own], parameters[name]) is None:
            return None
        pairs[name] = own
    return pairs


def _columns(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """The part of self-attention's tensor that has the meaning of `wanted`: all, the first third, or the last two."""
    third = own.shape[-1] // 3
    return next((each for each in (own, own[..., :third], own[..., third:]) if each.shape == wanted.shape), None)


@torch.no_grad()
def cross_attention_from_self_attention(decoder: PreTrainedModel) -> None:
    """Copy each layer's self-attention into its cross-attention."""
    for name, own in (self_attention_of(decoder) or {}).items():
        target = decoder.get_parameter(name)
        values = _columns(decoder.get_parameter(own), target)
        assert values is not None  # self_attention_of found it
        target.copy_(values)
