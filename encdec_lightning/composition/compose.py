"""`compose`: the one way to build a model of two checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from transformers import EncoderDecoderConfig

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.compatibility import ComposedModel, assemble, check
from encdec_lightning.composition.initialization import cross_attention_from_self_attention, initialized
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.options import Composition, CrossAttentionInit, Init, Weights
from encdec_lightning.composition.parameters import copies
from encdec_lightning.composition.prefix import PrefixDecoder, PrefixDecoderConfig
from encdec_lightning.composition.sharing import shared_keys
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserErrors


def compose(
    encoder: str | None,
    decoder: str,
    weights: Weights = "untied",
    encoder_init: Init = "pretrained",
    decoder_init: Init = "pretrained",
    encoder_layers: int | list[int] | None = None,
    decoder_layers: int | list[int] | None = None,
    encoder_vocabulary: str | None = None,
    decoder_vocabulary: str | None = None,
    encoder_bidirectional: bool = False,
    cross_attention_init: CrossAttentionInit = "pretrained",
    dropout: float | None = None,
    *,
    tokenizers: Tokenizers | None = None,
) -> ComposedModel:
    """Warm-start one sequence-to-sequence model (Rothe et al., 2020, section 3).

    The arguments are the fields of `Composition`. Cross-attention that no checkpoint has starts at random unless
    `cross_attention_init` says otherwise, and so does an LM head that the decoder's checkpoint lacks; draws come from
    torch's global generator. A shared tensor takes the pretrained side's values, the encoder's if both are.
    `tokenizers` is checked against the vocabularies, and writes the special tokens into the model's configs.

    Returns the model in fp32 and in training mode: a `PrefixDecoder` where `encoder` is None, else an `EncoderDecoder`.
    Raises `UserErrors` for a combination that cannot work.
    """
    options = {name: value for name, value in locals().items() if name != "tokenizers"}
    compatibility = check(**options)
    if not compatibility.ok:
        raise UserErrors(compatibility.problems)
    composition = Composition(**options)
    sides = [initialized(side) for side in composition.sides]
    models, fresh = [model for model, _ in sides], [names for _, names in sides]
    if len(models) == 2:
        _share_pretrained(weights, *models, *fresh)
    model = assemble(models, composition)
    if cross_attention_init == "self_attention":
        cross_attention_from_self_attention(model.decoder)  # once it is shared, so that it is the self-attention in use
    if isinstance(model, EncoderDecoder):
        if count_ties(model) != len(model.shared):
            raise RuntimeError(f"{count_ties(model)} of {len(model.shared)} shared tensors are one Parameter")
        _blank_padding(model)
    names = {f"{side.role}.{name}" for side, own in zip(composition.sides, fresh, strict=True) for name in own}
    model.config.fresh_parameters = _fresh(model, names)
    if tokenizers is not None:
        tokenizers.configure(model)
    model.train()
    return model


def rebuild(config: dict[str, Any]) -> ComposedModel:
    """The model of a config that `model.config.to_dict()` gave, without its values, in torch's default dtype."""
    model: ComposedModel
    if config["model_type"] == PrefixDecoderConfig.model_type:
        model = PrefixDecoder(PrefixDecoderConfig.from_dict(config))
    else:
        model = EncoderDecoder(EncoderDecoderConfig.from_dict(config))
    model.config.dtype = model.dtype
    return model


@torch.no_grad()
def _share_pretrained(
    weights: Weights,
    encoder: torch.nn.Module,
    decoder: torch.nn.Module,
    fresh_encoder: set[str],
    fresh_decoder: set[str],
) -> None:
    """Sharing keeps the encoder's values: give it the decoder's first where only the decoder's are pretrained."""
    for target, source in shared_keys(weights, encoder, decoder).items():
        own, other = target.removeprefix("decoder."), source.removeprefix("encoder.")
        if other in fresh_encoder and own not in fresh_decoder:
            encoder.get_parameter(other).copy_(decoder.get_parameter(own))


@torch.no_grad()
def _blank_padding(model: EncoderDecoder) -> None:
    """Zero the padding token's embedding where the embedding of its neighbour would show it."""
    config = model.encoder.config
    if architecture_of(config).reads_padding:
        model.encoder.get_input_embeddings().weight[config.pad_token_id] = 0


def _fresh(model: ComposedModel, fresh: set[str]) -> list[str]:
    """Names of the parameters that start at random, each shared tensor under its source's name."""
    started = {id(model.get_parameter(name)) for name in fresh}
    started |= {id(each) for name, each in model.named_parameters() if not name.startswith(("encoder.", "decoder."))}
    started -= {id(model.get_parameter(name)) for pair in model.shared.items() for name in pair if name not in fresh}
    copied = {name for name, own in copies(model).items() if id(model.get_parameter(own)) not in started}
    started -= {id(model.get_parameter(name)) for name in copied}
    return [name for name, each in model.named_parameters() if id(each) in started]
