"""The options of a composed model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from encdec_lightning.errors import require

Weights = Literal["untied", "tied_embeddings", "tied"]
Init = Literal["pretrained", "random", "embeddings", "layers"]
CrossAttentionInit = Literal["pretrained", "random", "self_attention"]
Role = Literal["encoder", "decoder"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """The options of one side."""

    role: Role
    checkpoint: str
    init: Init
    layers: int | list[int] | None
    vocabulary: str | None
    dropout: float | None
    cross_attention: CrossAttentionInit | None
    """None for a side without cross-attention: an encoder, or a decoder alone."""
    bidirectional: bool


@dataclass(frozen=True)
class Composition:
    """Which checkpoints become encoder and decoder, what they start from, and what the two sides share.

    Its fields, in their order, are the arguments of `compose` and `check`.
    """

    encoder: str | None
    """The encoder: a Hub id or a local folder; null: the decoder alone, which reads the source as a prefix (GPT)."""
    decoder: str
    """The decoder: a Hub id or a local folder."""
    weights: Weights = "untied"
    """What encoder and decoder share: nothing, the embeddings, or every parameter both have (BERTSHARE)."""
    encoder_init: Init = "pretrained"
    """What the encoder takes from its checkpoint: all, nothing (RND2BERT), the embeddings or the layers only."""
    decoder_init: Init = "pretrained"
    """What the decoder takes from its checkpoint: all, nothing (BERT2RND), the embeddings or the layers only."""
    encoder_layers: int | list[int] | None = None
    """The encoder's layers: the first so many of its checkpoint, or those listed, counted from 1; null: all."""
    decoder_layers: int | list[int] | None = None
    """The decoder's layers: the first so many of its checkpoint, or those listed, counted from 1; null: all."""
    encoder_vocabulary: str | None = None
    """A Hub id or folder whose tokenizer replaces the encoder's; the words' embeddings then start anew."""
    decoder_vocabulary: str | None = None
    """A Hub id or folder whose tokenizer replaces the decoder's; the words' embeddings then start anew."""
    encoder_bidirectional: bool = False
    """Take the causal mask off an encoder whose family reads left to right only, such as gpt2 or llama."""
    cross_attention_init: CrossAttentionInit = "pretrained"
    """Start cross-attention as the decoder's checkpoint has it (bart's family), or else at random, as in the paper;
    always at random; or as a copy of each decoder layer's self-attention, which learns to use the source several times
    sooner where steps are few. Nothing without an encoder."""
    dropout: float | None = None
    """Dropout probability of both sides, attention included; null: what the checkpoints' configs say."""

    def __post_init__(self) -> None:
        require(
            ("encoder", self.encoder, self.encoder != "", "it must be a Hub id or a folder"),
            ("decoder", self.decoder, bool(self.decoder), "it must be a Hub id or a folder"),
            *(self._choice(name, choices) for name, choices in CHOICES.items()),
            *(self._layers(name) for name in ("encoder_layers", "decoder_layers")),
            ("dropout", self.dropout, self.dropout is None or 0 <= self.dropout < 1, "it must lie in [0, 1)"),
        )
        if self.reads_prefix:
            names = ("weights", "encoder_init", "encoder_layers", "encoder_vocabulary", "encoder_bidirectional")
            require(*(self._unset(name) for name in names))

    @property
    def reads_prefix(self) -> bool:
        """Whether there is no encoder, so that the decoder reads the source as a prefix."""
        return self.encoder is None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The options by side: the encoder's if there is one, and the decoder's."""
        return (self._side("decoder"),) if self.reads_prefix else (self._side("encoder"), self._side("decoder"))

    @property
    def vocabularies(self) -> tuple[str, str]:
        """Where the tokenizers of sources and targets come from."""
        target = self.decoder_vocabulary or self.decoder
        return (self.encoder_vocabulary or self.encoder or target), target

    def _side(self, role: Role) -> Side:
        cross_attention = self.cross_attention_init if role == "decoder" and not self.reads_prefix else None
        return Side(
            role=role,
            checkpoint=getattr(self, role),
            init=getattr(self, f"{role}_init"),
            layers=getattr(self, f"{role}_layers"),
            vocabulary=getattr(self, f"{role}_vocabulary"),
            dropout=self.dropout,
            cross_attention=cross_attention,
            bidirectional=role == "encoder" and self.encoder_bidirectional,
        )

    def _unset(self, name: str) -> tuple[str, object, bool, str]:
        value, default = getattr(self, name), self.__dataclass_fields__[name].default
        return name, value, value == default, f"without an encoder it stays {default}"

    def _choice(self, name: str, choices: tuple[str, ...]) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        return name, value, value in choices, f"it must be one of {', '.join(choices)}"

    def _layers(self, name: str) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        expected = "it must be a number of layers, or a list of different ones counted from 1"
        if isinstance(value, list):
            return name, value, bool(value) and min(value) >= 1 and len(set(value)) == len(value), expected
        return name, value, value is None or value >= 1, expected


CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(kind) for name, kind in get_type_hints(Composition).items() if get_origin(kind) is Literal
}
"""The values of the options that are a choice."""
