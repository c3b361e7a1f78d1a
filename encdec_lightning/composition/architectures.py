"""All that is known about each family of checkpoints, and nothing about it anywhere else.

A family is a `model_type` of transformers. Names of modules are given relative to the family's base model (what
`AutoModel` builds); `base` is where that base model sits inside the causal language model (what
`AutoModelForCausalLM` builds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What composition must know about one family."""

    base: str
    """Name of the base model inside the causal language model."""
    embeddings: tuple[str, ...]
    """Modules that make up the embedding block: what the two sides share under tied embeddings."""
    word_embeddings: str
    """The word embedding module inside the embedding block."""
    cross_attention: tuple[str, ...]
    """Parts of the names of cross-attention parameters: no checkpoint has them, they start at random."""
    self_attention: tuple[tuple[str, str], ...]
    """Replacements that turn a cross-attention parameter's name into that of the self-attention parameter of the same
    meaning; empty where their layouts differ."""
    head: tuple[str, ...]
    """Prefixes of the causal language model's own parameters, outside the base model."""
    encodes: bool
    """Whether the family is bidirectional, so that it can be the encoder."""
    positions: str
    """Name of the config's number of positions."""
    positions_before_first: int = 0
    """Rows of the position table in front of the first token's (RoBERTa counts from padding_idx + 1)."""
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    """Names of the config's dropout probabilities."""
    encoder_arguments: tuple[tuple[str, Any], ...] = ()
    """Arguments of the base model when it is the encoder."""


_BERT = dict(
    embeddings=("embeddings",),
    word_embeddings="embeddings.word_embeddings",
    cross_attention=(".crossattention.",),
    self_attention=((".crossattention.", ".attention."),),
    encodes=True,
    positions="max_position_embeddings",
    encoder_arguments=(("add_pooling_layer", False),),
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(base="bert", head=("cls.",), **_BERT),  # type: ignore[arg-type]
    "roberta": Architecture(base="roberta", head=("lm_head.",), positions_before_first=2, **_BERT),  # type: ignore[arg-type]
    "gpt2": Architecture(
        base="transformer",
        embeddings=("wte", "wpe"),
        word_embeddings="wte",
        cross_attention=(".crossattention.", ".ln_cross_attn."),
        self_attention=(),
        head=("lm_head.",),
        encodes=False,
        positions="n_positions",
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
}


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The architecture of a part of a composed model, which `check` has accepted."""
    return ARCHITECTURES[config.model_type]


def length_limit(config: PretrainedConfig) -> int:
    """The longest sequence, in tokens, that a checkpoint's position table can take."""
    architecture = architecture_of(config)
    return int(getattr(config, architecture.positions)) - architecture.positions_before_first
