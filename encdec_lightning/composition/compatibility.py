"""`check`: whether a combination can be composed, from configs alone, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import EncoderDecoderConfig, PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import ARCHITECTURES, architecture_of
from encdec_lightning.composition.initialization import (
    one_line,
    random_decoder,
    random_encoder,
    self_attention_of,
    set_dropout,
    side_configs,
)
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.options import Composition, CrossAttentionInit, Init, Weights
from encdec_lightning.composition.sharing import shared_keys, unlike
from encdec_lightning.errors import UserError, UserErrors, did_you_mean

SAME_WHEN_TIED = ("num_hidden_layers", "num_attention_heads", "hidden_act")
"""What a layer computes with its weights, or how many there are: shapes alone do not show a difference."""


@dataclass(frozen=True)
class Compatibility:
    """The answer of `check`; the counts are numbers of parameters, each shared one counted once."""

    problems: tuple[UserError, ...]
    pretrained: int = 0
    random: int = 0
    shared: int = 0

    @property
    def ok(self) -> bool:
        """Whether `compose` will build it."""
        return not self.problems


def check(
    encoder: str,
    decoder: str,
    weights: Weights = "untied",
    encoder_init: Init = "pretrained",
    decoder_init: Init = "pretrained",
    cross_attention_init: CrossAttentionInit = "random",
    dropout: float | None = None,
) -> Compatibility:
    """Say whether `compose` with the same arguments will work, and what will be pretrained, random and shared."""
    try:
        composition = Composition(
            encoder=encoder,
            decoder=decoder,
            weights=weights,
            encoder_init=encoder_init,
            decoder_init=decoder_init,
            cross_attention_init=cross_attention_init,
            dropout=dropout,
        )
        model = skeleton(composition)
    except UserError as problem:
        return Compatibility((problem,))
    except UserErrors as errors:
        return Compatibility(errors.problems)
    return _count(model, composition)


def skeleton(composition: Composition) -> EncoderDecoder:
    """The composed model on the meta device: names and shapes without values; raises what stands against it."""
    encoder_config, decoder_config = side_configs(composition)
    problems = [
        *_family_problems("encoder", composition.encoder, encoder_config),
        *_family_problems("decoder", composition.decoder, decoder_config),
    ]
    if problems:
        raise UserErrors(problems)
    for config in (encoder_config, decoder_config):
        set_dropout(config, composition.dropout)
    with torch.device("meta"):
        sides = (
            _built("encoder", composition.encoder, random_encoder, encoder_config),
            _built("decoder", composition.decoder, random_decoder, decoder_config),
        )
        _refuse_unlike(composition, *sides)
        return assemble(*sides, composition)


def assemble(encoder: PreTrainedModel, decoder: PreTrainedModel, composition: Composition) -> EncoderDecoder:
    """One model of two sides; what `composition.weights` names becomes one Parameter, with the encoder's values."""
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    config.composition = vars(composition).copy()
    model = EncoderDecoder(config=config, encoder=encoder, decoder=decoder)
    model.tie_weights()
    return model


def copies(model: EncoderDecoder) -> dict[str, str]:
    """Parameters that start as a copy of another: each name -> the other's, a shared one under its source's name."""
    if model.composition.cross_attention_init != "self_attention":
        return {}
    pairs = {f"decoder.{name}": f"decoder.{own}" for name, own in self_attention_of(model.decoder).items()}
    return {name: model.shared.get(own, own) for name, own in pairs.items()}


def _built(
    field: str, checkpoint: str, build: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig
) -> PreTrainedModel:
    try:
        return build(config)
    except Exception as error:  # whatever the model's constructor trips over
        expected = f"no model can be built from its config.json ({type(error).__name__}: {one_line(error)})"
        raise UserError(field, checkpoint, expected) from error


def _family_problems(field: str, checkpoint: str, config: PretrainedConfig) -> list[UserError]:
    family = config.model_type
    able = [name for name, architecture in ARCHITECTURES.items() if architecture.encodes or field == "decoder"]
    if family not in ARCHITECTURES:
        expected = f"its family {family!r} cannot be the {field}, {', '.join(able)} can{did_you_mean(family, able)}"
        return [UserError(field, checkpoint, expected)]
    if family not in able:
        return [
            UserError(field, checkpoint, f"{family} reads left to right only, an encoder is one of {', '.join(able)}")
        ]
    return []


def _refuse_unlike(composition: Composition, encoder: PreTrainedModel, decoder: PreTrainedModel) -> None:
    """Raise when the scheme would share tensors that cannot be one."""
    families = encoder.config.model_type, decoder.config.model_type
    if composition.weights == "tied" and families[0] != families[1]:
        expected = f"a {families[0]} encoder and a {families[1]} decoder cannot share all weights, use untied"
        raise UserError("weights", "tied", expected)
    if composition.cross_attention_init == "self_attention" and not architecture_of(decoder.config).self_attention:
        expected = f"the cross-attention of {families[1]} is laid out unlike its self-attention, use random"
        raise UserError("cross_attention_init", "self_attention", expected)
    if composition.weights == "tied":
        for name in SAME_WHEN_TIED:
            values = getattr(encoder.config, name), getattr(decoder.config, name)
            if values[0] != values[1]:
                expected = (
                    f"the encoder's {name} is {values[0]}, the decoder's {values[1]}; use tied_embeddings or untied"
                )
                raise UserError("weights", "tied", expected)
    parts = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    differing = unlike(parts, shared_keys(composition.weights, encoder, decoder))
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError("weights", composition.weights, f"{differing[0]}{more}; use untied")


def _count(model: EncoderDecoder, composition: Composition) -> Compatibility:
    """Parameters by origin. A shared tensor is pretrained when either side's checkpoint has it."""
    loaded = {name for name in _names(model) if _in_checkpoint(model, composition, name)}
    loaded |= {source for target, source in model.shared.items() if target in loaded}
    loaded |= {name for name, own in copies(model).items() if own in loaded}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    pretrained = sum(size for name, size in sizes.items() if name in loaded)
    shared = sum(sizes[source] for source in set(model.shared.values()))
    return Compatibility((), pretrained=pretrained, random=sum(sizes.values()) - pretrained, shared=shared)


def _names(model: EncoderDecoder) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def _in_checkpoint(model: EncoderDecoder, composition: Composition, name: str) -> bool:
    """Whether a pretrained base model brings this parameter; a head of its own is counted as random, for configs
    do not say whether the checkpoint has one.
    """
    side, _, inner = name.partition(".")
    if side == "encoder":
        return composition.encoder_init == "pretrained"
    if side != "decoder" or composition.decoder_init != "pretrained":
        return False
    architecture = architecture_of(model.decoder.config)
    in_cross_attention = any(part in name for part in architecture.cross_attention)
    return not inner.startswith(architecture.head) and not in_cross_attention
