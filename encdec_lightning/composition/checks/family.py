"""Whether the family of a checkpoint can take the role that a composition gives it."""

from __future__ import annotations

from inspect import signature

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from encdec_lightning.composition.architectures import (
    ARCHITECTURES,
    CANNOT_DECODE,
    CANNOT_ENCODE,
    known_architecture,
)
from encdec_lightning.composition.causality import reads_left_to_right
from encdec_lightning.composition.cross_attending import family as family_of
from encdec_lightning.composition.options import Added, Composition, Side
from encdec_lightning.composition.sentence_head import HEADS
from encdec_lightning.composition.sides.config import checkpoint_config, stored_config
from encdec_lightning.errors import UserError, did_you_mean


def family_problems(side: Side, composition: Composition) -> list[UserError]:
    """What stands against a checkpoint's family in its role."""
    config = checkpoint_config(side)
    stored = stored_config(side)
    family, known = family_of(config), known_architecture(stored)
    problems = []
    positions = getattr(stored, "position_embedding_type", None)
    if str(positions).startswith("relative_key"):
        expected = f"its config.json says position_embedding_type {positions}, which transformers reads no longer"
        problems.append(UserError(side.role, side.checkpoint, expected))
    if family == "xmod" and config.default_language not in config.languages:
        expected = f"{side.checkpoint} does not say its language; take a copy whose config.json has a default_language"
        problems.append(UserError(side.role, side.checkpoint, f"{expected}, one of {', '.join(config.languages[:8])}"))
    broken = _broken(config, side)
    if broken is not None:
        problems.append(UserError(side.role, side.checkpoint, broken))
    if side.role == "encoder":
        segments = getattr(config, "type_vocab_size", None) or 0
        if composition.encoder_segments == "interval" and segments < 2:
            expected = f"{family} has {segments} segment embeddings, and two take turns; use first"
            problems.append(UserError("encoder_segments", "interval", expected))
        width, layers = int(getattr(config, "hidden_size", None) or 0), composition.sentence_layers
        if composition.scores_sentences and layers and width % HEADS:
            expected = f"{HEADS} heads cannot share out {family}'s states, which are {width} wide; use 0"
            problems.append(UserError("sentence_layers", layers, expected))
        if known is not None and known.encodes == "yes" and side.bidirectional and not reads_left_to_right(stored):
            problems.append(UserError("encoder_bidirectional", True, f"{family} has no causal mask to take off"))
        elif known is not None and known.encodes != "no" and reads_left_to_right(config):
            expected = f"{family} reads left to right only; encoder_bidirectional=true takes its causal mask off"
            problems.append(UserError("encoder", side.checkpoint, expected))
        elif known is None or known.encodes == "no":
            problems.append(UserError("encoder", side.checkpoint, _why_not(config, "encoder", CANNOT_ENCODE)))
    elif composition.reads_prefix:
        if known is None or not known.prefixes:
            able = ", ".join(name for name, each in ARCHITECTURES.items() if each.prefixes)
            problems.append(UserError("decoder", side.checkpoint, f"{family} cannot stand alone, {able} can"))
    elif known is None or not known.can_decode:
        problems.append(UserError("decoder", side.checkpoint, _why_not(config, "decoder", CANNOT_DECODE)))
    elif side.added is not None and not side.added.is_default and known.layout is None:
        problems += _not_added(side.added, side.checkpoint, family)
    return problems


def _broken(config: PretrainedConfig, side: Side) -> str | None:
    """Why transformers cannot run a config in the side's role, though it runs others of the family."""
    family = config.model_type
    if family == "flaubert" and config.pre_norm:
        return "transformers cannot run a flaubert with pre_norm; take one without"
    width = getattr(config, "word_embed_proj_dim", None)
    if family == "opt" and side.role == "encoder" and width != config.hidden_size:
        return f"its states are {width} wide (word_embed_proj_dim), not {config.hidden_size} as its hidden_size says"
    if family == "marian" and not (config.share_encoder_decoder_embeddings or config.tie_word_embeddings):
        words = config.decoder_vocab_size, config.vocab_size
        if words[0] != words[1]:
            expected = f"its decoder has {words[0]} words, its encoder {words[1]}"
            return f"{expected}, and transformers cannot load such a decoder alone; take one with a shared vocabulary"
    return None


def _not_added(added: Added, checkpoint: str, family: str) -> list[UserError]:
    """What was said about cross-attention that the decoder is not given, since it has its own."""
    expected = f"{checkpoint} ({family}) has cross-attention of its own, so that none is added; leave it away"
    names = ("place", "every", "kind", "gate")
    default = Added(encoder=added.encoder)
    return [
        UserError(f"cross_attention_{name}", getattr(added, name), expected)
        for name in names
        if getattr(added, name) != getattr(default, name)
    ]


def _why_not(config: PretrainedConfig, role: str, reasons: dict[str, str]) -> str:
    family = config.model_type
    able = [
        name for name, each in ARCHITECTURES.items() if (each.encodes != "no" if role == "encoder" else each.can_decode)
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
        able = [name for name, each in ARCHITECTURES.items() if each.layout is not None]
        return f"it has no cross-attention, and is given none, as {', '.join(able)} are"
    return None
