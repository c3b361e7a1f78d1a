"""A side with its first values: its checkpoint's, or a fresh draw, parameter by parameter."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.adapter.t5gemma import MODEL_TYPE as T5GEMMA
from encdec_lightning.composition.adapter.t5gemma import t5gemma_names
from encdec_lightning.composition.architecture import Architecture
from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.checkpoints import load_config, load_weights
from encdec_lightning.composition.options import Side
from encdec_lightning.composition.sides.config import checkpoint_config, side_config
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.sides.names import base_prefix, computed, parameter_names
from encdec_lightning.composition.sides.origins import origins
from encdec_lightning.composition.sides.random_values import drop_pooler, random_side
from encdec_lightning.errors import UserError


def initialized(side: Side) -> tuple[PreTrainedModel, set[str]]:
    """A side's model with its first values, and the names of its parameters that started at random."""
    config = side_config(side)
    if side.init == "random":
        model = random_side(side, config)
        return model, set(parameter_names(side, model)) - computed(side, model)
    model, missing = _load(side)
    resized = any(each is not None for each in (side.layers, side.vocabulary, side.positions))
    taken = {} if resized else origins(side, model)
    if not all(taken.get(name) == name or name in missing for name in parameter_names(side, model)):
        checkpoint, model = model, random_side(side, config)
        taken = origins(side, model)
        _copy({name: checkpoint.get_parameter(own) for name, own in taken.items()}, model)
        if side.positions is not None and side.positions_init == "last":
            _repeat_last_position(side, checkpoint, model)
    fresh = {name for name in parameter_names(side, model) if name not in taken or taken[name] in missing}
    return model, fresh - computed(side, model)


def _load(side: Side) -> tuple[PreTrainedModel, set[str]]:
    """The checkpoint as it is, in the side's role, and the names it lacks; raises `UserError` if it lacks a base's."""
    config = checkpoint_config(side)
    architecture = architecture_of(config)
    encodes = side.role == "encoder"
    model, report = load_weights(
        architecture.encoder_class if encodes else architecture.decoder_class,
        side.role,
        side.checkpoint,
        config,
        key_mapping=_renamed(side, architecture) or None,
        **dict(architecture.encoder_arguments if encodes else ()),
    )
    if encodes:
        drop_pooler(model)
    known, base = set(parameter_names(side, model)), base_prefix(side, model)
    missing = [name for name in sorted(report["missing_keys"]) if name in known]
    lacked = [name for name in missing if name.startswith(base) and not is_cross_attention(name)]
    _refuse_missing(side, [name for name in lacked if name not in computed(side, model)])
    return model, set(missing) - _head_of_embeddings(model, missing)


def _renamed(side: Side, architecture: Architecture) -> dict[str, str]:
    """Pattern and replacement for the names of tensors that transformers would not find."""
    stored = load_config(side.role, side.checkpoint)
    return t5gemma_names(side.role) if stored.model_type == T5GEMMA else dict(architecture.renamed)


@torch.no_grad()
def _head_of_embeddings(model: PreTrainedModel, missing: list[str]) -> set[str]:
    """Start an LM head that the checkpoint ties and the class does not (bigbird_pegasus) at the word embeddings."""
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    lacked = {name for name in missing if head is not None and model.get_parameter(name) is head.weight}
    if lacked and model.config.tie_word_embeddings and head.weight.shape == words.shape:
        head.weight.copy_(words)
        return lacked
    return set()


def _refuse_missing(side: Side, missing: list[str]) -> None:
    if missing:
        expected = f"the checkpoint lacks {len(missing)} tensors that its config.json asks for, such as {missing[0]}"
        raise UserError(side.role, side.checkpoint, expected)


@torch.no_grad()
def _copy(values: dict[str, torch.Tensor], model: PreTrainedModel) -> None:
    """Give parameters their values; a table of positions with fewer rows gives the first ones."""
    for name, value in values.items():
        own = model.get_parameter(name)
        (own if own.shape == value.shape else own[: len(value)]).copy_(value)


@torch.no_grad()
def _repeat_last_position(side: Side, checkpoint: PreTrainedModel, model: PreTrainedModel) -> None:
    """Start the rows of positions that the checkpoint lacks as its last one, unless they are computed."""
    for name, own in origins(side, model).items():
        table, shorter = model.get_parameter(name), checkpoint.get_parameter(own)
        if table.shape != shorter.shape and name not in computed(side, model):
            table[len(shorter) :].copy_(shorter[-1])
