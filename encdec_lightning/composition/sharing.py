"""What encoder and decoder share. A new scheme is a function, an entry of `SCHEMES`, and its name in options.py.

The function gives {target: source}. Targets are names of decoder parameters, sources names of encoder parameters, both
relative to the parts. Building, saving, loading, counting and the optimizer all read that one map.

Only parameters are shared, never modules: whether attention is causal lives on the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.cross_attending import family
from encdec_lightning.composition.options import Weights

Shared = dict[str, str]


def untied(encoder: PreTrainedModel, decoder: PreTrainedModel) -> Shared:
    """Nothing is shared."""
    return {}


def tied_embeddings(encoder: PreTrainedModel, decoder: PreTrainedModel) -> Shared:
    """The whole embedding block of two sides of one family, else the word embeddings (Rothe et al., section 3)."""
    if family(encoder.config) != family(decoder.config):
        return {word_embeddings(decoder): word_embeddings(encoder)}
    block = architecture_of(encoder.config).embeddings
    return {name: own for name, own in tied(encoder, decoder).items() if own.startswith(block)}


def tied(encoder: PreTrainedModel, decoder: PreTrainedModel) -> Shared:
    """Every parameter of the decoder's base model that has a namesake in the encoder; cross-attention has none."""
    own = {name for name, _ in encoder.named_parameters()}
    base = decoder.base_model_prefix
    names = [name for name, _ in decoder.get_submodule(base).named_parameters()]
    return {f"{base}.{name}": name for name in names if name in own}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A way of sharing, and what checks and reports must know about it."""

    share: Callable[[PreTrainedModel, PreTrainedModel], Shared]
    """(encoder, decoder) -> {name of a decoder's parameter: the encoder's that it is}."""
    needs_one_family: bool
    """Whether it shares what layers compute with, so that both sides must be of one family, with the same layers and
    settings. What a refusal then says is in the next two."""
    shares: str = "weights"
    """In the refusal of two families, after "cannot share"."""
    instead: str = "untied"
    """In the refusal of two settings, after "use": the schemes that may be used instead."""
    label: str
    """In the opening lines of a fit, after the names of the sides."""
    sentence: str
    """In a model card, after "The sides"."""


SCHEMES: dict[Weights, Scheme] = {
    "untied": Scheme(share=untied, needs_one_family=False, label="untied", sentence="share nothing"),
    "tied_embeddings": Scheme(
        share=tied_embeddings, needs_one_family=False, label="embeddings tied", sentence="share their embeddings"
    ),
    "tied": Scheme(
        share=tied,
        needs_one_family=True,
        shares="all weights",
        instead="tied_embeddings or untied",
        label="tied",
        sentence="share all weights that both have",
    ),
}


def shared_keys(weights: Weights, encoder: PreTrainedModel, decoder: PreTrainedModel) -> Shared:
    """The scheme's map with names as they are in the composed model: `decoder.…` -> `encoder.…`."""
    pairs = SCHEMES[weights].share(encoder, decoder)
    return {f"decoder.{target}": f"encoder.{source}" for target, source in pairs.items()}


def word_embeddings(model: PreTrainedModel) -> str:
    """The name of a side's word embeddings."""
    owner = model.get_input_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is owner)


def unlike(model: nn.Module, shared: Shared) -> list[str]:
    """One description for each shared pair whose two tensors differ in shape."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    return [
        f"{target} has shape {shapes[target]}, {source} has {shapes[source]}"
        for target, source in shared.items()
        if shapes[target] != shapes[source]
    ]
