"""What each side starts from: its checkpoint's values, name by name, or a fresh draw."""

from __future__ import annotations

import re

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import (
    CROSS_ATTENTION,
    DROPOUTS,
    OWN_ATTENTION,
    PER_LAYER,
    architecture_of,
)
from encdec_lightning.composition.checkpoints import load_config, load_weights, vocabulary
from encdec_lightning.composition.foreign import built
from encdec_lightning.composition.options import Side
from encdec_lightning.errors import UserError

LAYER = re.compile(r"\.(\d+)\.")  # the first number in a parameter's name


def checkpoint_config(side: Side) -> PretrainedConfig:
    """The config of a side's checkpoint, in the side's role and with its dropout; raises `UserError`."""
    config = load_config(side.role, side.checkpoint)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(side.role, side.checkpoint, "its weights are quantized, take the checkpoint in full precision")
    if side.dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, side.dropout)
    if side.cross_attention is not None or side.role == "encoder":
        config.is_decoder = config.add_cross_attention = side.role == "decoder"
    if side.bidirectional:
        config.is_causal = False
    return config


def side_config(side: Side) -> PretrainedConfig:
    """The config of a side as it will be built, its family known; raises `UserError`."""
    config = checkpoint_config(side)
    architecture = architecture_of(config)
    chosen = layer_numbers(side, config)
    if side.layers is not None:
        for name in PER_LAYER:
            each = getattr(config, name, None)
            if isinstance(each, list):
                setattr(config, name, [each[number] for number in chosen])
        setattr(config, architecture.depth, len(chosen))
    if side.vocabulary is not None:
        size, pad = vocabulary(f"{side.role}_vocabulary", side.vocabulary)
        if architecture.positions_before_first and pad != config.pad_token_id:
            expected = (
                f"a {config.model_type} counts positions from its padding token, so this vocabulary must have "
                f"padding as token {config.pad_token_id}"
            )
            raise UserError(f"{side.role}_vocabulary", side.vocabulary, expected)
        config.vocab_size, config.pad_token_id = size, pad
    return config


def layer_numbers(side: Side, config: PretrainedConfig) -> list[int]:
    """The chosen layers of a checkpoint, counted from 0; raises `UserError` for one that it does not have."""
    depth = int(getattr(config, architecture_of(config).depth))
    if depth < 1:
        raise UserError(side.role, side.checkpoint, f"its config.json says {depth} layers, it must be at least 1")
    if side.layers is None:
        return list(range(depth))
    numbers = side.layers if isinstance(side.layers, list) else list(range(1, side.layers + 1))
    if max(numbers) > depth:
        raise UserError(f"{side.role}_layers", side.layers, f"{side.checkpoint} has {depth} layers")
    return [number - 1 for number in numbers]


def random_encoder(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """An encoder of this config, drawn from torch's global generator."""
    architecture = architecture_of(config)
    arguments = dict(architecture.encoder_arguments)
    encoder = built(architecture.encoder_class, config, dtype=dtype, **arguments)
    drop_pooler(encoder)
    for parameter in encoder.parameters():
        if parameter.dtype != dtype:  # deberta's biases are fp32 in every model; buffers of fp32 stay
            parameter.data = parameter.data.to(dtype)
    return encoder


def random_decoder(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A decoder of this config, drawn from torch's global generator."""
    return built(AutoModelForCausalLM, config, dtype=dtype)


def random_side(side: Side, config: PretrainedConfig) -> PreTrainedModel:
    """A side of this config, drawn from torch's global generator."""
    return random_encoder(config) if side.role == "encoder" else random_decoder(config)


def initialized(side: Side) -> tuple[PreTrainedModel, set[str]]:
    """A side's model with its first values, and the names of its parameters that started at random."""
    config = side_config(side)
    if side.init == "random":
        model = random_side(side, config)
        return model, set(parameter_names(side, model)) - computed(side, model)
    model, missing = _load(side)
    resized = side.layers is not None or side.vocabulary is not None
    taken = {} if resized else origins(side, model)
    if not all(taken.get(name) == name or name in missing for name in parameter_names(side, model)):
        checkpoint, model = model, random_side(side, config)
        taken = origins(side, model)
        _copy({name: checkpoint.get_parameter(own) for name, own in taken.items()}, model)
    fresh = {name for name in parameter_names(side, model) if name not in taken or taken[name] in missing}
    return model, fresh - computed(side, model)


def origins(side: Side, model: PreTrainedModel) -> dict[str, str]:
    """{parameter of a side: the checkpoint's parameter it starts as}; `model` may be on the meta device.

    What is not named starts at random, and so do parameters that the checkpoint turns out to lack: a head, and
    cross-attention.
    """
    if side.init == "random":
        return {}
    architecture, base = architecture_of(model.config), base_prefix(side, model)
    numbers = layer_numbers(side, checkpoint_config(side))
    found = {}
    of_vocabulary = _of_vocabulary(model) if side.vocabulary is not None else set()
    for name in parameter_names(side, model):
        in_embeddings = name.startswith(tuple(f"{base}{part}" for part in architecture.embeddings))
        if side.init != "pretrained" and in_embeddings != (side.init == "embeddings"):
            continue
        if is_cross_attention(name) and side.cross_attention != "pretrained":
            continue
        if name in of_vocabulary:
            continue
        found[name] = LAYER.sub(lambda match: f".{numbers[int(match[1])]}.", name, count=1)
    return found


def base_prefix(side: Side, model: PreTrainedModel) -> str:
    """What stands in front of the base model's names in those of a side's parameters."""
    return "" if side.role == "encoder" else f"{model.base_model_prefix}."


def computed(side: Side, model: PreTrainedModel) -> set[str]:
    """Names of a side's parameters that are neither drawn nor a checkpoint's, but computed (sinusoids)."""
    start = tuple(f"{base_prefix(side, model)}{part}" for part in architecture_of(model.config).computed)
    return {name for name, _ in model.named_parameters() if start and name.startswith(start)}


def untrainable(side: Side, model: PreTrainedModel) -> set[str]:
    """Names of a side's parameters that are computed, or that no output depends on: DDP waits for their gradients."""
    unused = architecture_of(model.config).unused
    return computed(side, model) | {
        name for name, _ in model.named_parameters() if any(part in name for part in unused)
    }


def drop_pooler(encoder: PreTrainedModel) -> None:
    """Take away a pooler, which nothing here reads and a saved model would reload at random; some families call it."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = torch.nn.Identity()


def is_cross_attention(name: str) -> bool:
    """Whether a parameter is a part of cross-attention."""
    return any(part in name for part in CROSS_ATTENTION)


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


def parameter_names(side: Side, model: PreTrainedModel) -> list[str]:
    """A name for each parameter: a head's that is the word embeddings goes by the embeddings' name."""
    base = base_prefix(side, model)
    everything = sorted(model.named_parameters(remove_duplicate=False), key=lambda each: not each[0].startswith(base))
    names: dict[int, str] = {}
    for name, parameter in everything:
        names.setdefault(id(parameter), name)
    return list(names.values())


def _load(side: Side) -> tuple[PreTrainedModel, set[str]]:
    """The checkpoint as it is, in the side's role, and the names it lacks; raises `UserError` if it lacks a base's."""
    config = checkpoint_config(side)
    architecture = architecture_of(config)
    encodes = side.role == "encoder"
    model, report = load_weights(
        architecture.encoder_class if encodes else AutoModelForCausalLM,
        side.role,
        side.checkpoint,
        config,
        key_mapping=dict(architecture.renamed) or None,
        **dict(architecture.encoder_arguments if encodes else ()),
    )
    if encodes:
        drop_pooler(model)
    known, base = set(parameter_names(side, model)), base_prefix(side, model)
    missing = [name for name in sorted(report["missing_keys"]) if name in known]
    lacked = [name for name in missing if name.startswith(base) and not is_cross_attention(name)]
    _refuse_missing(side, [name for name in lacked if name not in computed(side, model)])
    return model, set(missing) - _head_of_embeddings(model, missing)


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


def _of_vocabulary(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that have a row for each word."""
    owners = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = [parameter for owner in owners if owner is not None for parameter in owner.parameters()]
    size, head = model.config.vocab_size, f"{model.base_model_prefix}."
    return {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(parameter is each for each in own)
        or (not name.startswith(head) and name.endswith("bias") and parameter.shape == (size,))
    }


@torch.no_grad()
def _copy(values: dict[str, torch.Tensor], model: PreTrainedModel) -> None:
    for name, value in values.items():
        model.get_parameter(name).copy_(value)
