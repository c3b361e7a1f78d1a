"""Whether two sides can be one model: what they would share must be alike, and cross-attention must fit."""

from __future__ import annotations

import re

import torch
from transformers import PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.cross_attending import family
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.sharing import SCHEMES, shared_keys, unlike
from encdec_lightning.composition.sides.config import checkpoint_config, layer_numbers
from encdec_lightning.composition.sides.cross_attention import is_cross_attention, self_attention_of
from encdec_lightning.errors import UserError

MAY_DIFFER_WHEN_TIED = re.compile(
    r"drop|_token_id$|^(_|is_|add_cross|initializer|init_std|use_cache|classifier|summary|problem|tie_|output_|return_)"
    r"|^(id2label|label2id|architectures|chunk_size|dtype|transformers_version|model_type)"
)
"""Settings of a config that do not say what its layers compute with their weights."""


def refuse_unlike(composition: Composition, encoder: PreTrainedModel, decoder: PreTrainedModel) -> None:
    """Raise when the scheme would share tensors that cannot be one, or cross-attention cannot do as asked."""
    width, read = encoder.config.hidden_size, getattr(decoder.config, "cross_attention_hidden_size", None)
    if read not in (None, width):
        expected = f"its cross-attention reads states {read} wide, those of {composition.encoder} are {width}"
        raise UserError("decoder", composition.decoder, expected)
    if composition.cross_attention_init == "self_attention" and self_attention_of(decoder) is None:
        expected = f"the cross-attention of {family(decoder.config)} is laid out unlike its self-attention, use random"
        raise UserError("cross_attention_init", "self_attention", expected)
    if composition.decoder_embeddings_init == "encoder":
        words = [tuple(side.get_input_embeddings().weight.shape) for side in (encoder, decoder)]
        if words[0] != words[1]:
            expected = f"the word embeddings are {words[0]} in the encoder, {words[1]} in the decoder; use own"
            raise UserError("decoder_embeddings_init", "encoder", expected)
    scheme = SCHEMES[composition.weights]
    if scheme.needs_one_family:
        _refuse_unlike_families(composition, encoder, decoder)
    parts = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    differing = unlike(parts, shared_keys(composition.weights, encoder, decoder))
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise UserError("weights", composition.weights, f"{differing[0]}{more}; use untied")
    if scheme.needs_one_family:
        for name, (one, other) in _unlike_settings(encoder.config, decoder.config).items():
            expected = f"the encoder's {name} is {one}, the decoder's {other}; use {scheme.instead}"
            raise UserError("weights", composition.weights, expected)


def _refuse_unlike_families(composition: Composition, encoder: PreTrainedModel, decoder: PreTrainedModel) -> None:
    families = family(encoder.config), family(decoder.config)
    if families[0] != families[1]:
        which = _first_difference(encoder, decoder)
        shares = SCHEMES[composition.weights].shares
        expected = f"a {families[0]} encoder and a {families[1]} decoder cannot share {shares} ({which}), use untied"
        raise UserError("weights", composition.weights, expected)
    numbers = [layer_numbers(side, checkpoint_config(side)) for side in composition.sides]
    if numbers[0] != numbers[1]:
        layers = [_in_words(each) for each in numbers]
        expected = f"the encoder has layers {layers[0]}, the decoder {layers[1]}; choose the same, or untied weights"
        for side in composition.sides:
            if side.layers is not None:
                raise UserError(f"{side.role}_layers", side.layers, expected)
        raise UserError("weights", composition.weights, expected)


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
