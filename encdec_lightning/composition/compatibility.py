"""`check`: whether a combination can be composed, from configs alone, before any weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, EncoderDecoderConfig, PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import (
    ARCHITECTURES,
    CANNOT_DECODE,
    CANNOT_ENCODE,
    length_limit,
)
from encdec_lightning.composition.checkpoints import one_line
from encdec_lightning.composition.initialization import (
    checkpoint_config,
    is_cross_attention,
    layer_numbers,
    origins,
    random_side,
    self_attention_of,
    side_config,
)
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.options import Composition, CrossAttentionInit, Init, Side, Weights
from encdec_lightning.composition.parameters import ParameterTable, count_parameters, expected_fresh
from encdec_lightning.composition.prefix import PrefixDecoder, prefix_decoder
from encdec_lightning.composition.sharing import shared_keys, unlike
from encdec_lightning.errors import UserError, UserErrors, did_you_mean

ComposedModel = EncoderDecoder | PrefixDecoder
MAY_DIFFER_WHEN_TIED = re.compile(
    r"drop|_token_id$|^(_|is_|add_cross|initializer|init_std|use_cache|classifier|summary|problem|tie_|output_|return_)"
    r"|^(id2label|label2id|architectures|chunk_size|dtype|transformers_version)"
)
"""Settings of a config that do not say what its layers compute with their weights."""


@dataclass(frozen=True)
class Compatibility:
    """The answer of `check`."""

    problems: tuple[UserError, ...]
    parameters: ParameterTable | None = None
    """What will be pretrained, random and shared; None where there are problems."""

    @property
    def ok(self) -> bool:
        """Whether `compose` will build it."""
        return not self.problems


def check(
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
) -> Compatibility:
    """Say whether `compose` with the same arguments will work, and what will be pretrained, random and shared."""
    try:
        composition = Composition(**locals())
        model = skeleton(composition)
    except UserError as problem:
        return Compatibility((problem,))
    except UserErrors as errors:
        return Compatibility(errors.problems)
    return Compatibility((), count_parameters(model))


def skeleton(composition: Composition) -> ComposedModel:
    """The composed model on the meta device: its names, shapes and what is fresh; raises what hinders it."""
    problems = [problem for side in composition.sides for problem in _side_problems(side, composition)]
    if problems:
        raise UserErrors(problems)
    configs = [side_config(side) for side in composition.sides]
    with torch.device("meta"):
        models = [_built(side, config) for side, config in zip(composition.sides, configs, strict=True)]
        if len(models) == 2:
            _refuse_unlike(composition, *models)
        model = assemble(models, composition)
    model.config.fresh_parameters = expected_fresh(model)
    return model


def assemble(models: Sequence[PreTrainedModel], composition: Composition) -> ComposedModel:
    """One model of its sides; what `composition.weights` names becomes one Parameter, with the encoder's values."""
    kept = {"composition": vars(composition).copy(), "fresh_parameters": []}
    if len(models) == 1:
        return prefix_decoder(models[0], kept)
    encoder, decoder = models
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    config.dtype = encoder.dtype
    for name, value in kept.items():
        setattr(config, name, value)
    model = EncoderDecoder(config=config, encoder=encoder, decoder=decoder)
    model.tie_weights()
    return model


def length_problems(
    composition: Composition, configs: Sequence[PretrainedConfig], source: int, target: int
) -> list[tuple[str, int, str]]:
    """Which of two lengths in tokens is beyond a position table: (`source` or `target`, it, what would be right).

    `configs` are those of `composition.sides`.
    """
    limits = [length_limit(config) for config in configs]
    if len(limits) == 1:
        limit = limits[0]
        if limit is None or source + target <= limit:
            return []
        expected = f"{composition.decoder} has positions for {limit} tokens, source and target together"
        return [("source", source, expected)]
    checks = (("source", source, limits[0], composition.encoder), ("target", target, limits[1], composition.decoder))
    return [
        (name, length, f"{checkpoint} has positions for {limit} tokens")
        for name, length, limit, checkpoint in checks
        if limit is not None and length > limit
    ]


def _built(side: Side, config: PretrainedConfig) -> PreTrainedModel:
    """The side without values; raises `UserError` where no model, or not these layers of it, can be built."""
    try:
        model = random_side(side, config)
    except Exception as error:  # whatever the model's constructor trips over
        expected = f"no model can be built from its config.json ({type(error).__name__}: {one_line(error)})"
        raise UserError(side.role, side.checkpoint, expected) from error
    if side.layers is not None:
        whole = {
            name for name, _ in random_side(side, checkpoint_config(side)).named_parameters(remove_duplicate=False)
        }
        if not whole.issuperset(origins(side, model).values()):
            expected = f"the layers of {config.model_type} are not alike, they cannot be chosen"
            raise UserError(f"{side.role}_layers", side.layers, expected)
    return model


def _side_problems(side: Side, composition: Composition) -> list[UserError]:
    """What stands against a checkpoint's family in its role."""
    config = checkpoint_config(side)
    family, known = config.model_type, ARCHITECTURES.get(config.model_type)
    problems = []
    if side.role == "encoder":
        if known is not None and known.encodes == "yes" and side.bidirectional:
            problems.append(UserError("encoder_bidirectional", True, f"{family} has no causal mask to take off"))
        elif known is not None and known.encodes == "unmasked" and not side.bidirectional:
            expected = f"{family} reads left to right only; encoder_bidirectional=true takes its causal mask off"
            problems.append(UserError("encoder", side.checkpoint, expected))
        elif known is None or known.encodes == "no":
            problems.append(UserError("encoder", side.checkpoint, _why_not(config, "encoder", CANNOT_ENCODE)))
    elif composition.encoder is None:
        if known is None or not known.prefixes:
            able = ", ".join(name for name, each in ARCHITECTURES.items() if each.prefixes)
            problems.append(UserError("decoder", side.checkpoint, f"{family} cannot stand alone, {able} can"))
    elif known is None or not known.decodes:
        problems.append(UserError("decoder", side.checkpoint, _why_not(config, "decoder", CANNOT_DECODE)))
    return problems


def _why_not(config: PretrainedConfig, role: str, reasons: dict[str, str]) -> str:
    family = config.model_type
    able = [
        name for name, each in ARCHITECTURES.items() if (each.encodes != "no" if role == "encoder" else each.decodes)
    ]
    reason = reasons.get(family)
    if reason is None and role == "decoder":
        reason = _lacks_cross_attention(config)
    if reason is None:
        reason = f"it was never tried, {', '.join(able)} can{did_you_mean(family, able)}"
    return f"its family {family} cannot be the {role}: {reason}"


def _lacks_cross_attention(config: PretrainedConfig) -> str | None:
    """The reason against a decoder that has no way to read an encoder, found in its class."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model is None:
        return "transformers has no causal language model of it"
    if "encoder_hidden_states" not in signature(model.forward).parameters:
        return "it has no cross-attention to read a source with"
    return None


def _refuse_unlike(composition: Composition, encoder: PreTrainedModel, decoder: PreTrainedModel) -> None:
    """Raise when the scheme would share tensors that cannot be one, or cross-attention cannot do as asked."""
    width, read = encoder.config.hidden_size, getattr(decoder.config, "cross_attention_hidden_size", None)
    if read not in (None, width):
        expected = f"its cross-attention reads states {read} wide, those of {composition.encoder} are {width}"
        raise UserError("decoder", composition.decoder, expected)
    if composition.cross_attention_init == "self_attention" and self_attention_of(decoder) is None:
        family = decoder.config.model_type
        expected = f"the cross-attention of {family} is laid out unlike its self-attention, use random"
        raise UserError("cross_attention_init", "self_attention", expected)
    if composition.weights == "tied":
        _refuse_unlike_families(composition, encoder, decoder)
    parts = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    differing = unlike(parts, shared_keys(composition.weights, encoder, decoder))
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError("weights", composition.weights, f"{differing[0]}{more}; use untied")
    if composition.weights == "tied":
        for name, (one, other) in _unlike_settings(encoder.config, decoder.config).items():
            expected = f"the encoder's {name} is {one}, the decoder's {other}; use tied_embeddings or untied"
            raise UserError("weights", "tied", expected)


def _refuse_unlike_families(composition: Composition, encoder: PreTrainedModel, decoder: PreTrainedModel) -> None:
    families = encoder.config.model_type, decoder.config.model_type
    if families[0] != families[1]:
        which = _first_difference(encoder, decoder)
        expected = f"a {families[0]} encoder and a {families[1]} decoder cannot share all weights ({which}), use untied"
        raise UserError("weights", "tied", expected)
    numbers = [layer_numbers(side, checkpoint_config(side)) for side in composition.sides]
    if numbers[0] != numbers[1]:
        layers = [_in_words(each) for each in numbers]
        expected = f"the encoder has layers {layers[0]}, the decoder {layers[1]}; choose the same, or untied weights"
        raise UserError("weights", "tied", expected)


def _in_words(layers: list[int]) -> str:
    if layers == list(range(len(layers))):
        return f"1 to {len(layers)}"
    return ", ".join(str(number + 1) for number in layers)


def _unlike_settings(encoder: PretrainedConfig, decoder: PretrainedConfig) -> dict[str, tuple[object, object]]:
    """The settings of a family in which two configs differ, so that the same weights would compute something else."""
    names = [name for name in type(encoder)().to_dict() if not MAY_DIFFER_WHEN_TIED.search(name)]
    values = {name: (getattr(encoder, name, None), getattr(decoder, name, None)) for name in names}
    return {name: (one, other) for name, (one, other) in values.items() if one != other}


def _first_difference(encoder: PreTrainedModel, decoder: PreTrainedModel) -> str:
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    for name, parameter in decoder.get_submodule(decoder.base_model_prefix).named_parameters():
        if name not in shapes and not is_cross_attention(f".{name}"):
            return f"the encoder has no {name}"
        if name in shapes and shapes[name] != tuple(parameter.shape):
            return f"{name} is {shapes[name]} in the encoder, {tuple(parameter.shape)} in the decoder"
    return "their tensors are alike, but they compute differently"
