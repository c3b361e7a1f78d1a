"""What composition must know about a family of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig

from encdec_lightning.composition.layout import Layout


def _positions_can_be_given(config: PretrainedConfig) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What composition must know about one family."""

    encodes: Literal["no", "yes", "unmasked"] = "no"
    """Whether it can be the encoder; `unmasked` only with its causal mask taken off."""
    decodes: bool = False
    """Whether it can be the decoder as it is: causal, with cross-attention."""
    prefixes: bool = False
    """Whether it can be a decoder alone, that reads the source as a prefix."""
    embeddings: tuple[str, ...] = ("embeddings.",)
    """Prefixes of the embedding block's parameters: what the two sides share under tied embeddings."""
    cross_attention: bool = False
    """Whether its checkpoints have cross-attention."""
    depth: str = "num_hidden_layers"
    """Name of the config's number of layers."""
    positions: str | None = "max_position_embeddings"
    """Name of the config's number of positions; None where positions are relative and without an end."""
    positions_before_first: int = 0
    """Rows of the position table in front of the first token's: a token equal to the padding token shifts positions."""
    encoder_class: Any = AutoModel
    """What builds the encoder."""
    encoder_arguments: tuple[tuple[str, Any], ...] = ()
    """Arguments of the base model when it is the encoder."""
    decoder_class: Any = AutoModelForCausalLM
    """What builds the decoder."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pattern and replacement for the names of a checkpoint's tensors that transformers would not find."""
    computed: tuple[str, ...] = ()
    """Prefixes of parameters that are no checkpoint's and not trained, since they are computed (sinusoids)."""
    unused: tuple[str, ...] = ()
    """Parts of the names of parameters that no output here depends on."""
    positions_given: Literal["argument", "module", "module, one for all"] = "argument"
    """Where a decoder's positions come in from outside: as an argument of its forward, or of its module
    `embed_positions`, there perhaps one for all rows."""
    why_positions_are_not_given: Callable[[PretrainedConfig], str | None] = _positions_can_be_given
    """Why a decoder of this config counts positions by itself, so that they cannot come in; None where they can."""
    window: str = "sliding_window"
    """Name of the config's number of tokens that attention sees, which has no value where it sees all."""
    mixes_dtypes: bool = False
    """Whether its code brings fp32 into a model of another dtype, so that only autocast runs it in mixed precision."""
    packs: bool = False
    """Whether a token's position can be given, so that examples can lie side by side in one row."""
    layout: Callable[[PretrainedConfig], Layout] | None = None
    """Where the layers of a language model that has no cross-attention can take it, which may depend on the config."""
    reads_padding: bool = False
    """Whether a token's embedding depends on its neighbour's, so that the padding token's must be zero."""

    @property
    def can_decode(self) -> bool:
        """Whether it can be the decoder, as it is or with cross-attention added."""
        return self.decodes or self.layout is not None

    @property
    def opens_in_stock(self) -> bool:
        """Whether transformers' own `EncoderDecoderModel` can open it as an encoder."""
        return self.encoder_class is AutoModel
