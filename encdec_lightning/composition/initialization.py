"""Where the values of a composed model's parameters come from: a checkpoint, or a fresh draw."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, logging

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.options import Composition, Init
from encdec_lightning.errors import UserError

NOT_FOUND = "it is neither a folder with a config.json nor a checkpoint of the Hub that can be reached or is cached"


def side_configs(composition: Composition) -> tuple[PretrainedConfig, PretrainedConfig]:
    """The configs of encoder and decoder as they will be built, each of its own copy; raises `UserError`."""
    encoder = load_config("encoder", composition.encoder)
    decoder = load_config("decoder", composition.decoder)
    encoder.is_decoder = encoder.add_cross_attention = False
    decoder.is_decoder = decoder.add_cross_attention = True
    return encoder, decoder


def load_config(field: str, checkpoint: str) -> PretrainedConfig:
    """The config of a checkpoint; raises `UserError` naming `field` when there is none."""
    folder = Path(checkpoint)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(field, checkpoint, "the folder holds no config.json")
    try:
        return AutoConfig.from_pretrained(checkpoint)
    except StrictDataclassError as error:
        raise UserError(field, checkpoint, f"its config.json cannot be right ({one_line(error)})") from error
    except (OSError, ValueError, KeyError) as error:
        expected = (
            "transformers cannot read its config.json or does not know its family" if folder.is_dir() else NOT_FOUND
        )
        raise UserError(field, checkpoint, expected) from error


def one_line(error: Exception) -> str:
    """The message of an error as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".")


def set_dropout(config: PretrainedConfig, dropout: float | None) -> None:
    """Give every dropout of a side's config one probability; None leaves the checkpoint's own."""
    if dropout is not None:
        for name in architecture_of(config).dropouts:
            setattr(config, name, dropout)


def random_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """An encoder of this config, drawn from torch's global generator."""
    return AutoModel.from_config(config, dtype=torch.float32, **dict(architecture_of(config).encoder_arguments))


def random_decoder(config: PretrainedConfig) -> PreTrainedModel:
    """A decoder of this config, drawn from torch's global generator."""
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def encoder_side(checkpoint: str, config: PretrainedConfig, init: Init) -> tuple[PreTrainedModel, set[str]]:
    """The encoder and the names of its parameters that start at random: all or none."""
    if init == "random":
        model = random_encoder(config)
        return model, _names(model)
    arguments = dict(architecture_of(config).encoder_arguments)
    model, missing = _load(AutoModel, "encoder", checkpoint, config, **arguments)
    _refuse_missing("encoder", checkpoint, missing)
    return model, set()


def decoder_side(checkpoint: str, config: PretrainedConfig, init: Init) -> tuple[PreTrainedModel, set[str]]:
    """The decoder and the names that start at random: all, or cross-attention and a head the checkpoint lacks."""
    if init == "random":
        model = random_decoder(config)
        return model, _names(model)
    architecture = architecture_of(config)
    model, missing = _load(AutoModelForCausalLM, "decoder", checkpoint, config)
    fresh = tuple(architecture.cross_attention)
    _refuse_missing(
        "decoder",
        checkpoint,
        [
            name
            for name in missing
            if not name.startswith(architecture.head) and not any(part in name for part in fresh)
        ],
    )
    return model, set(missing)


def self_attention_of(decoder: PreTrainedModel) -> dict[str, str]:
    """Each cross-attention parameter -> the self-attention parameter of the same meaning in the same layer."""
    architecture = architecture_of(decoder.config)
    names = {}
    for name in _names(decoder):
        if any(part in name for part in architecture.cross_attention):
            names[name] = name
            for old, new in architecture.self_attention:
                names[name] = names[name].replace(old, new)
    return names


@torch.no_grad()
def cross_attention_from_self_attention(decoder: PreTrainedModel) -> None:
    """Copy each layer's self-attention into its cross-attention."""
    for name, own in self_attention_of(decoder).items():
        decoder.get_parameter(name).copy_(decoder.get_parameter(own))


def _names(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


def _load(
    auto: Any, field: str, checkpoint: str, config: PretrainedConfig, **arguments: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A side's model in fp32 and the names that the checkpoint lacks. Only safetensors are read, never pickles.

    transformers' own report is silenced: what is missing is expected, or refused by the caller.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = auto.from_pretrained(
            checkpoint, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **arguments
        )
    except SafetensorError as error:
        raise UserError(field, checkpoint, f"its safetensors cannot be read ({error})") from error
    except RuntimeError as error:
        raise UserError(field, checkpoint, "the weights do not have the sizes that its config.json says") from error
    except OSError as error:
        raise UserError(field, checkpoint, _no_safetensors(checkpoint)) from error
    finally:
        logging.set_verbosity(verbosity)
    _refuse_more_layers(field, checkpoint, model, report["unexpected_keys"])
    return model, sorted(report["missing_keys"])


def _no_safetensors(checkpoint: str) -> str:
    if os.path.isdir(checkpoint):
        return "the folder holds no model.safetensors (other formats are not read: they can run code)"
    return "the Hub does not offer it as safetensors, or cannot be reached"


def _refuse_more_layers(field: str, checkpoint: str, model: PreTrainedModel, unexpected: set[str]) -> None:
    """Raise when the checkpoint has layers beyond those of the config: transformers drops them without a word."""
    known = tuple(_names(model))
    for name in sorted(unexpected):
        first = re.sub(r"\.\d+\.", ".0.", name)
        if first != name and any(own.endswith(first) or first.endswith(own) for own in known):
            raise UserError(
                field, checkpoint, f"the checkpoint has more layers than its config.json says, such as {name}"
            )


def _refuse_missing(field: str, checkpoint: str, missing: list[str]) -> None:
    if missing:
        expected = f"the checkpoint lacks {len(missing)} tensors that its config.json asks for, such as {missing[0]}"
        raise UserError(field, checkpoint, expected)
