"""The options of a composed model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from encdec_lightning.errors import require

Weights = Literal["untied", "tied_embeddings", "tied"]
Init = Literal["pretrained", "random", "embeddings", "layers"]
EmbeddingsInit = Literal["own", "encoder"]
Segments = Literal["first", "interval"]
SentencePooling = Literal["first", "mean"]
PositionsInit = Literal["random", "last"]
CrossAttentionInit = Literal["pretrained", "random", "self_attention"]
CrossAttentionPlace = Literal["between", "after"]
CrossAttentionKind = Literal["separate", "merged"]
CrossAttentionGate = Literal["none", "zero"]
Role = Literal["encoder", "decoder"]


@dataclass(frozen=True, kw_only=True)
class Added:
    """The cross-attention that a language model without any is given."""

    encoder: str
    """The encoder's checkpoint, whose states it reads."""
    place: CrossAttentionPlace | None = None
    every: int = 1
    kind: CrossAttentionKind = "separate"
    gate: CrossAttentionGate = "none"

    @property
    def is_default(self) -> bool:
        """Whether all is as it is where nothing is said, which families with cross-attention of their own allow."""
        return self == Added(encoder=self.encoder)


@dataclass(frozen=True, kw_only=True)
class Side:
    """The options of one side."""

    role: Role
    checkpoint: str
    init: Init
    layers: int | list[int] | None
    vocabulary: str | None
    positions: int | None
    """None: as many as its checkpoint has."""
    positions_init: PositionsInit
    dropout: float | None
    cross_attention: CrossAttentionInit | None
    """None for a side without cross-attention: an encoder, or a decoder alone."""
    bidirectional: bool
    added: Added | None
    """None for a side without cross-attention."""


@dataclass(frozen=True)
class Composition:
    """Which checkpoints become encoder and decoder, what they start from, and what the two sides share.

    Its fields, in their order, are the arguments of `compose` and `check`.
    """

    encoder: str | None
    """The encoder: a Hub id, `<id>@<revision>` for a certain one, or a local folder; null: the decoder alone, which
    reads the source as a prefix (GPT)."""
    decoder: str | None
    """The decoder: a Hub id, `<id>@<revision>` for a certain one, or a local folder; null: the encoder alone, which
    scores a source's sentences for an extract (BertSumExt)."""
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
    decoder_embeddings_init: EmbeddingsInit = "own"
    """Start the decoder's word embeddings as `decoder_init` says, or as a copy of the encoder's, which learn apart from
    these (Liu & Lapata's decoder); both sides then have one vocabulary."""
    encoder_bidirectional: bool = False
    """Take the causal mask off an encoder whose family reads left to right only, such as gpt2 or llama."""
    encoder_sentences: str | None = None
    """Mark the sentences of a source: the tokenizer's start token before each, its end token after each (Liu & Lapata,
    section 3.1). `lines`: each line of the text is a sentence. A language's code (en, de, fr, ...): texts are split by
    its rules. null: the two tokens stand around the whole text."""
    encoder_segments: Segments = "first"
    """The encoder's segment embeddings: the first for every token; or interval, the first and the second in turn from
    sentence to sentence, which needs `encoder_sentences`."""
    encoder_positions: int | None = None
    """Give the encoder's table of positions so many rows, for sources longer than its checkpoint can read; null: as
    many as the checkpoint has."""
    encoder_positions_init: PositionsInit = "random"
    """Start the further rows at random (Liu & Lapata, section 3.1), or as the table's last row (their code)."""
    cross_attention_init: CrossAttentionInit = "pretrained"
    """Start cross-attention as the decoder's checkpoint has it (bart's family), or else at random, as in the paper;
    always at random; or as a copy of each decoder layer's self-attention, which learns to use the source several times
    sooner where steps are few. Nothing without an encoder."""
    cross_attention_place: CrossAttentionPlace | None = None
    """Where a language model that has no cross-attention (llama, qwen, gemma, ...) is given it: between self-attention
    and the feed-forward part, or after the layer; null: between, or after where the family computes both parts of the
    same states (phi, gptj), so that there is no between."""
    cross_attention_every: int = 1
    """Of such a language model every n-th layer is given cross-attention: 1, all; 2, the second, the fourth, ..."""
    cross_attention_kind: CrossAttentionKind = "separate"
    """With parameters of its own, as T5Gemma; or merged into self-attention, as T5Gemma 2: its own projections, one
    softmax over target and source, and no parameter more but a projection between sides of different widths."""
    cross_attention_gate: CrossAttentionGate = "none"
    """Or zero: what cross-attention adds is multiplied with a learnt number that starts at 0, so that the model starts
    as the language model that it was."""
    sentence_layers: int = 2
    """Layers of a Transformer between the sentences, above an encoder alone (Liu & Lapata, section 3.1); 0: none."""
    sentence_pooling: SentencePooling = "first"
    """What stands for a sentence there: the state of its first token, as in the paper, or the mean of all of its own.
    Encoders that were trained by means (all-MiniLM) have one state for the first tokens of all sentences."""
    dropout: float | None = None
    """Dropout probability of both sides, attention included; null: what the checkpoints' configs say."""

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder", "encoder_vocabulary", "decoder_vocabulary"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        layers, every = self.sentence_layers, self.cross_attention_every
        require(
            ("encoder", self.encoder, self.encoder != "", "it must be a Hub id or a folder"),
            ("decoder", self.decoder, self.decoder != "", "it must be a Hub id or a folder"),
            ("decoder", self.decoder, self.encoder is not None or self.decoder is not None, "one side must be given"),
            ("sentence_layers", layers, layers >= 0, "it must be a number of layers, 0 or more"),
            *(self._choice(name, choices) for name, choices in CHOICES.items()),
            *(self._layers(name) for name in ("encoder_layers", "decoder_layers")),
            ("cross_attention_every", every, every >= 1, "it must be a number of layers, 1 or more"),
            ("dropout", self.dropout, self.dropout is None or 0 <= self.dropout < 1, "it must lie in [0, 1)"),
        )
        rule, interval = self.encoder_sentences, self.encoder_segments == "interval"
        known = f"{LINES}, null, or a language that has rules: {', '.join(LANGUAGES)}"
        marks = "it needs encoder_sentences, which says where a sentence ends"
        require(
            ("encoder_sentences", rule, rule in (None, LINES, *LANGUAGES), f"it must be {known}"),
            ("encoder_segments", self.encoder_segments, rule is not None or not interval, marks),
            (
                "encoder_positions_init",
                self.encoder_positions_init,
                self.encoder_positions is not None or self.encoder_positions_init == "random",
                "without encoder_positions there are no further rows; leave it away",
            ),
            (
                "encoder_positions_init",
                self.encoder_positions_init,
                self.encoder_init in ("pretrained", "embeddings") or self.encoder_positions_init == "random",
                f"with encoder_init {self.encoder_init} all rows start at random; leave it away",
            ),
        )
        if self.scores_sentences:
            require(*(self._unset(name) for name in OF_DECODER))
            needed = "an encoder alone scores sentences, and this says where one ends"
            require(("encoder_sentences", rule, rule is not None, needed))
        else:
            require(*(self._unscored(name) for name in OF_SCORES))
        if self.decoder_embeddings_init == "encoder" and len(self.sides) == 2:
            require(*self._copied_embeddings())
        if self.reads_prefix:
            names = ("weights", "encoder_init", "encoder_layers", "encoder_vocabulary", "encoder_bidirectional")
            require(*(self._unset(name) for name in (*names, *OF_BOTH, *ADDED)))
        if self.cross_attention_kind == "merged":
            require(*(self._not_merged(name) for name in ("cross_attention_init", *ADDED) if name not in MERGED))

    @property
    def reads_prefix(self) -> bool:
        """Whether there is no encoder, so that the decoder reads the source as a prefix."""
        return self.encoder is None

    @property
    def scores_sentences(self) -> bool:
        """Whether there is no decoder, so that an extract is made of the source's sentences."""
        return self.decoder is None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The options by side: the encoder's and the decoder's, as far as there are."""
        roles: tuple[Role, ...] = ("encoder", "decoder")
        return tuple(self._side(role) for role in roles if getattr(self, role) is not None)

    @property
    def vocabularies(self) -> tuple[str, str]:
        """Where the tokenizers of sources and targets come from."""
        source = self.encoder_vocabulary or self.encoder
        target = self.decoder_vocabulary or self.decoder
        return source or target or "", target or source or ""

    def _side(self, role: Role) -> Side:
        reads = role == "decoder" and self.encoder is not None
        return Side(
            role=role,
            checkpoint=getattr(self, role),
            init=getattr(self, f"{role}_init"),
            layers=getattr(self, f"{role}_layers"),
            vocabulary=getattr(self, f"{role}_vocabulary"),
            positions=self.encoder_positions if role == "encoder" else None,
            positions_init=self.encoder_positions_init,
            dropout=self.dropout,
            cross_attention=self.cross_attention_init if reads else None,
            bidirectional=role == "encoder" and self.encoder_bidirectional,
            added=self._added(self.encoder) if role == "decoder" and self.encoder is not None else None,
        )

    def _added(self, encoder: str) -> Added:
        return Added(
            encoder=encoder,
            place=self.cross_attention_place,
            every=self.cross_attention_every,
            kind=self.cross_attention_kind,
            gate=self.cross_attention_gate,
        )

    def _copied_embeddings(self) -> tuple[tuple[str, object, bool, str], ...]:
        shared = f"with weights {self.weights} the sides share their word embeddings already; leave it away"
        own = f"with decoder_init {self.decoder_init} the decoder has its checkpoint's; use random or layers"
        name, value = "decoder_embeddings_init", self.decoder_embeddings_init
        return (name, value, self.weights == "untied", shared), (
            name, value, self.decoder_init in ("random", "layers"), own
        )  # fmt: skip

    def _unset(self, name: str) -> tuple[str, object, bool, str]:
        value, default = getattr(self, name), self.__dataclass_fields__[name].default
        lacking = "a decoder" if self.scores_sentences else "an encoder"
        return name, value, value == default, f"without {lacking} it stays {'null' if default is None else default}"

    def _unscored(self, name: str) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        expected = "a decoder writes the target, and no sentence is scored; leave it away, or set decoder=null"
        return name, value, value == self.__dataclass_fields__[name].default, expected

    def _not_merged(self, name: str) -> tuple[str, object, bool, str]:
        value, default = getattr(self, name), self.__dataclass_fields__[name].default
        return name, value, value == default, f"merged attention has no part of its own, so it stays {default}"

    def _choice(self, name: str, choices: tuple[str, ...]) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        null = self.__dataclass_fields__[name].default is None
        return name, value, value in choices or (value is None and null), f"it must be one of {', '.join(choices)}"

    def _layers(self, name: str) -> tuple[str, object, bool, str]:
        value = getattr(self, name)
        expected = "it must be a number of layers, or a list of different ones counted from 1"
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        right = value != [] and all(isinstance(each, int) and each >= 1 for each in numbers)
        return name, value, right and len(set(numbers)) == len(numbers), expected


LANGUAGES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi", "fr", "gu", "hi", "hy", "it", "ja", "kk", "kn"),
    *("ml", "mr", "my", "nl", "pa", "pl", "pt", "ru", "sk", "ta", "te", "uk"),
)
"""Those for which sentencex has rules; for others it would take English ones without a word."""
LINES = "lines"
"""The value of `encoder_sentences` for texts with a sentence on each line."""
OF_BOTH = (
    *("decoder_embeddings_init", "encoder_sentences", "encoder_segments"),
    *("encoder_positions", "encoder_positions_init"),
)
"""Further options that need an encoder."""
OF_SCORES = ("sentence_layers", "sentence_pooling")
"""Options that need an encoder alone."""
OF_DECODER = (
    *("weights", "decoder_init", "decoder_layers", "decoder_vocabulary", "decoder_embeddings_init"),
    *("cross_attention_init", "cross_attention_place", "cross_attention_every", "cross_attention_kind"),
    "cross_attention_gate",
)
"""Options that need a decoder."""
ADDED = ("cross_attention_place", "cross_attention_every", "cross_attention_kind", "cross_attention_gate")
"""The options of cross-attention that a language model is given."""
MERGED = ("cross_attention_every", "cross_attention_kind")
"""Those that mean something where it is merged into self-attention."""


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of a choice, which may be null."""
    literal = next((each for each in (kind, *get_args(kind)) if get_origin(each) is Literal), None)
    return get_args(literal)


CHOICES: dict[str, tuple[str, ...]] = {
    name: _choices(kind) for name, kind in get_type_hints(Composition).items() if _choices(kind)
}
"""The values of the options that are a choice."""
