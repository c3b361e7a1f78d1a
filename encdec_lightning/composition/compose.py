"""`compose`: the one way to build a model of two checkpoints."""

from __future__ import annotations

import torch

from encdec_lightning.composition.compatibility import assemble, check, copies
from encdec_lightning.composition.initialization import (
    cross_attention_from_self_attention,
    decoder_side,
    encoder_side,
    set_dropout,
    side_configs,
)
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.options import Composition, CrossAttentionInit, Init, Weights
from encdec_lightning.composition.sharing import shared_keys
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserErrors


def compose(
    encoder: str,
    decoder: str,
    weights: Weights = "untied",
    encoder_init: Init = "pretrained",
    decoder_init: Init = "pretrained",
    cross_attention_init: CrossAttentionInit = "random",
    dropout: float | None = None,
    *,
    tokenizers: Tokenizers | None = None,
) -> EncoderDecoder:
    """Warm-start one sequence-to-sequence model (Rothe et al., 2020, section 3).

    The arguments are the fields of `Composition`. Cross-attention starts at random unless `cross_attention_init` says
    otherwise, and so does an LM head that the decoder's checkpoint lacks; draws come from torch's global generator. A
    shared tensor takes the pretrained side's values, the encoder's if both are. `tokenizers` writes the special tokens
    into the model's configs.

    Returns the model in fp32 and in training mode. Raises `UserErrors` for a combination that cannot work.
    """
    composition = Composition(
        encoder=encoder,
        decoder=decoder,
        weights=weights,
        encoder_init=encoder_init,
        decoder_init=decoder_init,
        cross_attention_init=cross_attention_init,
        dropout=dropout,
    )
    compatibility = check(**vars(composition))
    if not compatibility.ok:
        raise UserErrors(compatibility.problems)
    encoder_config, decoder_config = side_configs(composition)
    set_dropout(encoder_config, dropout)
    set_dropout(decoder_config, dropout)
    source, fresh_source = encoder_side(encoder, encoder_config, encoder_init)
    target, fresh_target = decoder_side(decoder, decoder_config, decoder_init)
    if encoder_init == "random" and decoder_init == "pretrained":
        _copy_shared_to_encoder(weights, source, target)
    model = assemble(source, target, composition)
    if cross_attention_init == "self_attention":
        cross_attention_from_self_attention(target)  # once it is shared, so that it is the self-attention in use
    if count_ties(model) != len(model.shared):
        raise RuntimeError(f"{count_ties(model)} of {len(model.shared)} shared tensors are one Parameter")
    model.config.fresh_parameters = _fresh(model, fresh_source, fresh_target)
    if tokenizers is not None:
        tokenizers.configure(model)
    model.train()
    return model


@torch.no_grad()
def _copy_shared_to_encoder(weights: Weights, encoder: torch.nn.Module, decoder: torch.nn.Module) -> None:
    """Sharing keeps the encoder's values: give it the pretrained decoder's first."""
    for target, source in shared_keys(weights, encoder, decoder).items():
        own = decoder.get_parameter(target.removeprefix("decoder."))
        encoder.get_parameter(source.removeprefix("encoder.")).copy_(own)


def _fresh(model: EncoderDecoder, source: set[str], target: set[str]) -> list[str]:
    """Names of the parameters that start at random, each shared tensor under its source's name."""
    fresh = {f"encoder.{name}" for name in source} | {f"decoder.{name}" for name in target}
    fresh |= {name for name, _ in model.named_parameters() if not name.startswith(("encoder.", "decoder."))}
    fresh -= {own for other, own in model.shared.items() if other not in fresh}
    fresh -= {name for name, own in copies(model).items() if own not in fresh}
    return [name for name, _ in model.named_parameters() if name in fresh]
