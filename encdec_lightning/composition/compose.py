"""`compose`: the one way to build a model of two checkpoints, or of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.assembly import assemble
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.model import count_ties
from encdec_lightning.composition.options import Composition, Weights
from encdec_lightning.composition.parameters import copies
from encdec_lightning.composition.sharing import shared_keys
from encdec_lightning.composition.sides.cross_attention import cross_attention_from_self_attention
from encdec_lightning.composition.sides.initialization import initialized
from encdec_lightning.composition.signature import takes_fields_of
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserErrors


@dataclass(frozen=True)
class ComposeArguments(Composition):
    """What `compose` is given: a composition, and by keyword the tokenizers."""

    tokenizers: Tokenizers | None = field(default=None, kw_only=True)


@takes_fields_of(ComposeArguments)
def compose(given: Callable[[], ComposeArguments]) -> ComposedModel:
    """Warm-start one sequence-to-sequence model (Rothe et al., 2020, section 3).

    The arguments are the fields of `Composition`, in their order, and `tokenizers`, by keyword. Cross-attention that no
    checkpoint has starts at random unless `cross_attention_init` says otherwise, and so does an LM head that the
    decoder's checkpoint lacks; draws come from torch's global generator. A shared tensor takes the pretrained side's
    values, the encoder's if both are. `tokenizers` is checked against the vocabularies, and writes the special tokens
    into the model's configs.

    Returns the model in fp32 and in training mode: a `PrefixDecoder` where `encoder` is None, a `SentenceScorer` where
    `decoder` is, else an `EncoderDecoder`.
    Raises `UserErrors` for a combination that cannot work.
    """
    arguments = given()
    composition = Composition(**{each.name: getattr(arguments, each.name) for each in fields(Composition)})
    compatibility = check(**vars(composition))
    if not compatibility.ok:
        raise UserErrors(compatibility.problems)
    sides = [initialized(side) for side in composition.sides]
    models, fresh = [model for model, _ in sides], [names for _, names in sides]
    if len(models) == 2:
        _share_pretrained(composition.weights, *models, *fresh)
    model = assemble(models, composition)
    if composition.cross_attention_init == "self_attention":
        cross_attention_from_self_attention(model.decoder)  # once it is shared, so that it is the self-attention in use
    if count_ties(model) != len(model.shared):
        raise RuntimeError(f"{count_ties(model)} of {len(model.shared)} shared tensors are one Parameter")
    if composition.decoder_embeddings_init == "encoder":
        _copy_embeddings(model)
    _blank_padding(model)
    names = {f"{side.role}.{name}" for side, own in zip(composition.sides, fresh, strict=True) for name in own}
    model.config.fresh_parameters = _fresh(model, names)
    if arguments.tokenizers is not None:
        arguments.tokenizers.configure(model)
    model.train()
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
def _copy_embeddings(model: ComposedModel) -> None:
    """Start the decoder's word embeddings, and a head that is tied to them, as the encoder's."""
    model.decoder.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)


@torch.no_grad()
def _blank_padding(model: ComposedModel) -> None:
    """Zero the padding token's embedding where the embedding of its neighbour would show it."""
    config = model.source_config
    if architecture_of(config).reads_padding:
        model.get_input_embeddings().weight[config.pad_token_id] = 0


def _fresh(model: ComposedModel, fresh: set[str]) -> list[str]:
    """Names of the parameters that start at random, each shared tensor under its source's name."""
    started = {id(model.get_parameter(name)) for name in fresh}
    started |= {id(each) for name, each in model.named_parameters() if not name.startswith(("encoder.", "decoder."))}
    started -= {id(model.get_parameter(name)) for pair in model.shared.items() for name in pair if name not in fresh}
    copied = {name for name, own in copies(model).items() if id(model.get_parameter(own)) not in started}
    started -= {id(model.get_parameter(name)) for name in copied}
    return [name for name, each in model.named_parameters() if id(each) in started]
