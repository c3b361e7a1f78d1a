"""What is known about cross-attention: its parameters, and its start as a copy of self-attention."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.adapter.copying import Part, self_attention_parts
from encdec_lightning.composition.adapter.decoder import CrossAttendingLM
from encdec_lightning.composition.architectures import CROSS_ATTENTION, FROM_THE_SOURCE, OWN_ATTENTION

PROJECTION = "enc_to_dec_proj."
"""The start of the names of what makes the encoder's states as wide as the decoder's."""


def is_cross_attention(name: str) -> bool:
    """Whether a parameter is a part of cross-attention."""
    return any(part in name for part in CROSS_ATTENTION)


def joins_sides(name: str) -> bool:
    """Whether a composed model's parameter is a part of cross-attention, or of the projection to its width before."""
    return is_cross_attention(name) or name.startswith(PROJECTION)


def reads_source(name: str) -> bool:
    """Whether a parameter is a part of cross-attention that reads the source: keys and values."""
    return is_cross_attention(name) and any(part in name for part in FROM_THE_SOURCE)


def self_attention_of(decoder: PreTrainedModel) -> dict[str, str] | None:
    """{each cross-attention parameter: the self-attention parameter of the same meaning}; None where they differ."""
    found = _parts(decoder)
    return None if found is None else {name: own for name, (own, _) in found.items()}


@torch.no_grad()
def cross_attention_from_self_attention(decoder: PreTrainedModel) -> None:
    """Copy each layer's self-attention into its cross-attention."""
    for name, (own, part) in (_parts(decoder) or {}).items():
        decoder.get_parameter(name).copy_(part(decoder.get_parameter(own)))


def _parts(decoder: PreTrainedModel) -> dict[str, tuple[str, Part]] | None:
    if isinstance(decoder, CrossAttendingLM):
        return self_attention_parts(decoder)
    parameters = dict(decoder.named_parameters(remove_duplicate=False))
    found = {}
    for name in filter(is_cross_attention, parameters):
        own = name
        for old, new in OWN_ATTENTION.items():
            own = own.replace(old, new)
        columns = _columns(parameters[own], parameters[name]) if own != name and own in parameters else None
        if columns is None:
            return None
        found[name] = own, columns
    return found


def _columns(own: torch.Tensor, wanted: torch.Tensor) -> Part | None:
    """What takes of self-attention's tensor what has the meaning of `wanted`: all, the first third, or the last two."""
    third = own.shape[-1] // 3
    choices = (slice(None), slice(third), slice(third, None))
    chosen = next((each for each in choices if own[..., each].shape == wanted.shape), None)
    return None if chosen is None else lambda tensor: tensor[..., chosen]
