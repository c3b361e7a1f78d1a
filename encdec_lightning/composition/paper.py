"""What Rothe et al. (2020) print about the sizes of their models, to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass

from encdec_lightning.composition.families import told_family
from encdec_lightning.composition.options import OF_BOTH, Composition


@dataclass(frozen=True)
class PaperRow:
    """A row of table 1, in millions of parameters as printed."""

    variant: str
    total: int
    embedding: int
    initialized: int
    random: int
    note: str = ""


_CROSS_ATTENTION = "random 26M: cross-attention has 28,366,848"
_RND2BERT = "random 26M is a misprint: 221M - 109M = 112M"
_RND2GPT = (
    "237,861,120 without the encoder's own positions, types and layer norm, which a BERT with GPT-2's words keeps"
)
_ROWS: dict[tuple[str | None, ...], PaperRow] = {
    ("bert", "bert", "tied_embeddings", "random", "random"): PaperRow("rnd2rnd", 221, 23, 0, 221),
    ("bert", "bert", "tied_embeddings", "pretrained", "random"): PaperRow("bert2rnd", 221, 23, 109, 112),
    ("bert", "bert", "tied_embeddings", "random", "pretrained"): PaperRow("rnd2bert", 221, 23, 109, 26, _RND2BERT),
    ("bert", "bert", "tied_embeddings", "pretrained", "pretrained"): PaperRow(
        "bert2bert", 221, 23, 195, 26, _CROSS_ATTENTION
    ),
    ("bert", "bert", "tied", "pretrained", "pretrained"): PaperRow("bertshare", 136, 23, 109, 26, _CROSS_ATTENTION),
    ("roberta", "roberta", "tied", "pretrained", "pretrained"): PaperRow(
        "robertashare", 152, 39, 125, 26, _CROSS_ATTENTION
    ),
    (None, "gpt2", "untied", "pretrained", "pretrained"): PaperRow("gpt", 125, 39, 125, 0),
    ("bert", "gpt2", "tied_embeddings", "random", "pretrained"): PaperRow("rnd2gpt", 238, 39, 125, 114, _RND2GPT),
    ("bert", "gpt2", "untied", "pretrained", "pretrained"): PaperRow("bert2gpt", 260, 62, 234, 26, _CROSS_ATTENTION),
    ("roberta", "gpt2", "untied", "pretrained", "pretrained"): PaperRow(
        "roberta2gpt", 276, 78, 250, 26, _CROSS_ATTENTION
    ),
}
ROWS = tuple(row.variant for row in _ROWS.values())
"""The variants of table 1, in its order."""


_WORDS = {"bert": 28_996, "roberta": 50_265, "gpt2": 50_257}
"""Sizes of the vocabularies of the paper's checkpoints."""


def paper_row(composition: Composition) -> PaperRow | None:
    """The row of table 1 that a composition is, at any size; None where the paper has no such row."""
    if composition.encoder_layers is not None or composition.decoder_layers is not None:
        return None
    if any(getattr(composition, name) != getattr(Composition, name) for name in OF_BOTH):
        return None
    if not composition.reads_prefix and composition.cross_attention_init == "self_attention":
        return None
    families = [
        _family(role, checkpoint) if checkpoint else None
        for role, checkpoint in (("encoder", composition.encoder), ("decoder", composition.decoder))
    ]
    row = _ROWS.get((*families, composition.weights, composition.encoder_init, composition.decoder_init))
    words = composition.decoder if row is not None and row.variant == "rnd2gpt" else None
    replaced = (composition.encoder_vocabulary, composition.decoder_vocabulary)
    return row if replaced == (words, None) else None


def _family(role: str, checkpoint: str) -> str:
    told = told_family(checkpoint)
    if told is None:
        from encdec_lightning.composition.checkpoints import load_config

        told = load_config(role, checkpoint).model_type
    return told


def has_printed_size(composition: Composition) -> bool:
    """Whether a row's figures are about models of this size: 12 layers, 768 wide, the vocabulary of the checkpoints."""
    from encdec_lightning.composition.sides.config import side_config

    for side in composition.sides:
        config = side_config(side)
        words = _WORDS[config.model_type if side.vocabulary is None else "gpt2"]
        if (config.num_hidden_layers, config.hidden_size, config.vocab_size) != (12, 768, words):
            return False
    return True
