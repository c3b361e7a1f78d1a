"""The options of a composed model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from encdec_lightning.errors import require

Weights = Literal["untied", "tied_embeddings", "tied"]
Init = Literal["pretrained", "random"]
CrossAttentionInit = Literal["random", "self_attention"]


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Which checkpoints become encoder and decoder, and what the two sides share."""

    encoder: str
    """The encoder: a Hub id or a local folder of a bert or roberta checkpoint."""
    decoder: str
    """The decoder: a Hub id or a local folder of a bert, roberta or gpt2 checkpoint."""
    weights: Weights = "untied"
    """What encoder and decoder share: nothing, the embeddings, or every parameter both have (BERTSHARE)."""
    encoder_init: Init = "pretrained"
    """Start the encoder from the checkpoint's weights, or at random in its architecture (RND2BERT)."""
    decoder_init: Init = "pretrained"
    """Start the decoder from the checkpoint's weights, or at random in its architecture (BERT2RND)."""
    cross_attention_init: CrossAttentionInit = "random"
    """Start cross-attention at random, as in the paper, or as a copy of each decoder layer's self-attention, which
    learns to use the source several times sooner where steps are few."""
    dropout: float | None = None
    """Dropout probability of both sides, attention included; none: what the checkpoints' configs say."""

    def __post_init__(self) -> None:
        choices: dict[str, object] = {"weights": Weights, "encoder_init": Init, "decoder_init": Init}
        choices["cross_attention_init"] = CrossAttentionInit
        require(
            ("encoder", self.encoder, bool(self.encoder), "it must be a Hub id or a folder"),
            ("decoder", self.decoder, bool(self.decoder), "it must be a Hub id or a folder"),
            *(self._choice(name, get_args(kind)) for name, kind in choices.items()),
            ("dropout", self.dropout, self.dropout is None or 0 <= self.dropout < 1, "it must lie in [0, 1)"),
        )

    def _choice(self, name: str, choices: tuple[str, ...]) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        return name, value, value in choices, f"it must be one of {', '.join(choices)}"
