"""The config of a side as it will be built, and the layers that it takes of its checkpoint."""

from __future__ import annotations

from transformers import PretrainedConfig

from encdec_lightning.composition.adapter.t5gemma import t5gemma_side
from encdec_lightning.composition.architectures import (
    ARCHITECTURES,
    DROPOUTS,
    PER_LAYER,
    architecture_of,
    depth,
    length_limit,
)
from encdec_lightning.composition.causality import hide_later_tokens, show_later_tokens
from encdec_lightning.composition.checkpoints import load_config, vocabulary
from encdec_lightning.composition.cross_attending import MODEL_TYPE, with_cross_attention
from encdec_lightning.composition.layout import Layout
from encdec_lightning.composition.options import Added, Side
from encdec_lightning.errors import UserError


def stored_config(side: Side) -> PretrainedConfig:
    """The config of a side's checkpoint as it is; of a T5Gemma, the side's part of it. Raises `UserError`."""
    return t5gemma_side(load_config(side.role, side.checkpoint), side.role)


def checkpoint_config(side: Side) -> PretrainedConfig:
    """The config of a side's checkpoint, in the side's role and with its dropout; raises `UserError`."""
    config = stored_config(side)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(side.role, side.checkpoint, "its weights are quantized, take the checkpoint in full precision")
    if side.dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, side.dropout)
    if side.cross_attention is not None or side.role == "encoder":
        config.is_decoder = config.add_cross_attention = side.role == "decoder"
    if side.role == "decoder":
        hide_later_tokens(config)
    elif side.bidirectional:
        show_later_tokens(config)
    if config.model_type == "big_bird":  # block-sparse attention depends on padding, and on earlier batches' lengths
        config.attention_type = "original_full"
    known = ARCHITECTURES.get(config.model_type)
    if known is not None and known.depth == "decoder_layers" and hasattr(config, "encoder_layers"):
        config.encoder_layers = max(config.encoder_layers, config.decoder_layers)  # a cache has so many layers
    if side.added is not None and known is not None and known.layout is not None:
        return _with_added(side, side.added, config, known.layout(config))
    return config


def _with_added(side: Side, added: Added, config: PretrainedConfig, layout: Layout) -> PretrainedConfig:
    """The config of a language model that cross-attention is added to; raises `UserError` where it cannot be."""
    family = config.model_type
    if added.place == "between" and layout.between is None:
        expected = f"{family} has no between: both parts of its layers read the same states; use after"
        raise UserError("cross_attention_place", added.place, expected)
    if added.kind == "merged" and not layout.merges:
        expected = f"{family} has no projections of its keys and values alone that could read a source; use separate"
        raise UserError("cross_attention_kind", added.kind, expected)
    width = getattr(t5gemma_side(load_config("encoder", added.encoder), "encoder"), "hidden_size", None)
    if not isinstance(width, int):
        raise UserError("encoder", added.encoder, "its config tells no hidden_size: it is no encoder known here")
    reads = None if added.kind == "merged" or side.cross_attention == "self_attention" else width
    return with_cross_attention(
        config,
        cross_attention_place=added.place or ("after" if layout.between is None else "between"),
        cross_attention_every=added.every,
        cross_attention_kind=added.kind,
        cross_attention_gate=added.gate,
        cross_attention_hidden_size=None if reads == config.hidden_size else reads,
    )


def side_config(side: Side) -> PretrainedConfig:
    """The config of a side as it will be built, its family known; raises `UserError`."""
    config = checkpoint_config(side)
    architecture = architecture_of(config)
    chosen = layer_numbers(side, config)
    if side.layers is not None:
        if getattr(config, "scale_attn_by_inverse_layer_idx", False) and chosen != list(range(len(chosen))):
            expected = "its attention is scaled by the numbers of its layers, take the first ones"
            raise UserError(f"{side.role}_layers", side.layers, expected)
        for name in PER_LAYER:
            each = getattr(config, name, None)
            if isinstance(each, list):
                setattr(config, name, [each[number] for number in chosen])
        setattr(config, architecture.depth, len(chosen))
    if config.model_type == MODEL_TYPE and side.added is not None and side.added.every > len(chosen):
        raise UserError("cross_attention_every", side.added.every, f"the decoder has {len(chosen)} layers")
    if side.positions is not None:
        _extend_positions(side.positions, config)
    if side.vocabulary is not None:
        size, pad = vocabulary(f"{side.role}_vocabulary", side.vocabulary)
        if architecture.positions_before_first and pad != config.pad_token_id:
            expected = (
                f"a {config.model_type} counts positions from its padding token, so this vocabulary must have "
                f"padding as token {config.pad_token_id}"
            )
            raise UserError(f"{side.role}_vocabulary", side.vocabulary, expected)
        config.vocab_size, config.pad_token_id = size, pad
        if hasattr(config, "decoder_vocab_size"):  # marian's
            config.decoder_vocab_size = size
    if architecture.reads_padding and config.pad_token_id is None:
        name = side.role if side.vocabulary is None else f"{side.role}_vocabulary"
        expected = (
            f"a {config.model_type} reads the padding beside a token, so its vocabulary must have a padding token"
        )
        raise UserError(name, side.vocabulary or side.checkpoint, expected)
    return config


def _extend_positions(wanted: int, config: PretrainedConfig) -> None:
    """Give a config so many positions; raises `UserError` where there is no table, or one that is as long."""
    architecture, limit = architecture_of(config), length_limit(config)
    if limit is None or architecture.positions is None:
        raise UserError("encoder_positions", wanted, f"{config.model_type} has no table of positions; leave it away")
    if wanted <= limit:
        raise UserError("encoder_positions", wanted, f"the checkpoint has {limit} already; give more or leave it away")
    if getattr(config, "relative_attention", False) and getattr(config, "max_relative_positions", 1) < 1:  # deberta's
        config.max_relative_positions = limit  # what it was: distances beyond are the farthest
    setattr(config, architecture.positions, wanted + architecture.positions_before_first)


def layer_numbers(side: Side, config: PretrainedConfig) -> list[int]:
    """The chosen layers of a checkpoint, counted from 0; raises `UserError` for one that it does not have."""
    layers = depth(config)
    if layers < 1:
        raise UserError(side.role, side.checkpoint, f"its config.json says {layers} layers, it must be at least 1")
    if side.layers is None:
        return list(range(layers))
    numbers = side.layers if isinstance(side.layers, list) else list(range(1, side.layers + 1))
    if max(numbers) > layers:
        raise UserError(f"{side.role}_layers", side.layers, f"{side.checkpoint} has {layers} layers")
    return [number - 1 for number in numbers]
