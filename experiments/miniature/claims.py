"""The paper's claims that the miniature asks again, and what the paper's own tables say of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from results import Point

PAPER = {
    "summarization": {
        "rnd2rnd": 24.24, "bert2rnd": 30.80, "rnd2bert": 25.65, "bert2bert": 30.05, "bertshare": 31.13,
        "robertashare": 32.37, "gpt": 16.69, "rnd2gpt": 22.30, "bert2gpt": 21.91, "roberta2gpt": 15.88,
    },
    "fusion": {
        "rnd2rnd": 86.9, "bert2rnd": 89.3, "rnd2bert": 87.6, "bert2bert": 89.3, "bertshare": 89.2,
        "robertashare": 89.7, "gpt": 88.0, "rnd2gpt": 86.5, "bert2gpt": 88.4, "roberta2gpt": 89.9,
    },
    "translation": {
        "rnd2rnd": 26.0, "bert2rnd": 30.1, "rnd2bert": 27.2, "bert2bert": 30.1, "bertshare": 29.6,
        "gpt": 16.4, "rnd2gpt": 19.6, "bert2gpt": 23.2,
    },
}  # fmt: skip
PAPER["minilm"] = PAPER["summarization"]
"""Scores of the paper's rows: ROUGE-L of XSum (table 6), SARI of DiscoFuse (table 2), BLEU of newstest2014 from English
to German (table 4), where its GPT-2 had read English alone, and the miniature's has read both languages. MiniLM's
rows summarize too."""


@dataclass(frozen=True, eq=False)
class Claim:
    """That the row `more` scores more than the row `less`."""

    text: str
    block: str
    more: Point
    less: Point
    """The options of the block's axes, none where it has seeds alone."""
    other_block: str | None = None
    """Where the row `less` is, if it is not in the same block."""
    paper: float | None = None
    """The paper's own difference, in points of its task's score."""


def claims() -> Iterator[Claim]:
    """All claims of sections 4 and 5 of the paper that the miniature asks, and others about models of today."""

    def rows(text: str, blocks: tuple[str, ...], more: str, less: str) -> Iterator[Claim]:
        for block in blocks:
            known = PAPER.get(block)
            paper = round(known[more] - known[less], 2) if known else None
            yield Claim(text, block, {"variant": more}, {"variant": less}, paper=paper)

    english, everywhere = ("summarization", "fusion"), ("summarization", "fusion", "translation")
    of_bert = (*everywhere, "minilm")
    yield from rows("A pretrained encoder is essential", of_bert, "bert2rnd", "rnd2rnd")
    yield from rows("so it is with a pretrained decoder", of_bert, "bert2bert", "rnd2bert")
    yield from rows("A pretrained encoder is worth more than a decoder", of_bert, "bert2rnd", "rnd2bert")
    yield from rows("A pretrained decoder helps a random encoder", of_bert, "rnd2bert", "rnd2rnd")
    yield from rows("A pretrained decoder helps a pretrained encoder", of_bert, "bert2bert", "bert2rnd")
    yield from rows("Sharing helps where both sides are one language", (*english, "minilm"), "bertshare", "bert2bert")
    yield from rows("Sharing hurts translation", ("translation",), "bert2bert", "bertshare")
    yield from rows("Two vocabularies hurt: one is better", english, "roberta2gpt", "bert2gpt")
    yield from rows("Two vocabularies hurt: a random decoder is better", everywhere, "bert2rnd", "bert2gpt")
    yield from rows("A GPT-2 behind a random encoder is worse than nothing", everywhere, "rnd2rnd", "rnd2gpt")
    yield from rows("A language model alone is worse than BERT shared", everywhere, "bertshare", "gpt")
    yield from rows("RoBERTa shared is better than BERT shared", english, "robertashare", "bertshare")
    yield from rows("RoBERTa shared is better than with a GPT-2", english, "robertashare", "roberta2gpt")
    yield from _further()


def _further() -> Iterator[Claim]:
    """Those with less data, parts of a checkpoint, another vocabulary, and language models of today."""
    for share, words, paper in (("0.1", "10%", 4.6), ("0.01", "1%", 11.0)):
        encoder, nothing = ({"variant": row, "train_share": share} for row in ("bert2rnd", "rnd2rnd"))
        text = f"A pretrained encoder is essential with {words} of the data"
        yield Claim(text, "less-data", encoder, nothing, paper=paper)
    few = ({"variant": row, "train_share": "0.01"} for row in ("bertshare", "bert2rnd"))
    yield Claim("With 1% of the data fewer random parameters are better", "less-data", *few, paper=0.5)
    shared, both_sides, nothing = ({"variant": row} for row in ("bertshare", "bert2bert", "rnd2rnd"))
    for part, other, paper in (("embeddings_only", "layers", 2.1), ("layers_only", "embeddings", 1.7)):
        less = shared | {"ablation": part}
        yield Claim(f"Pretrained {other} help", "summarization", shared, less, "parts", paper)
    embedded = both_sides | {"ablation": "embeddings_only"}
    yield Claim("Pretrained embeddings alone help", "parts", embedded, nothing, "summarization", paper=0.2)
    yield Claim("A new vocabulary hurts", "summarization", shared, {}, "new-vocabulary", paper=1.7)
    two = {"encoder_layers": "[2,4]"}, {"encoder_layers": "2"}
    yield Claim("A chosen pair of layers is better than the first two", "depth", *two, paper=0.9)
    encoder, decoder = {"variant": "bert2rnd"}, {"variant": "rnd2bert"}
    text = "With masks alone, a pretrained encoder is"
    yield Claim(f"{text} essential", "masks-alone", encoder, nothing, "summarization")
    yield Claim(f"{text} worth more than a decoder", "masks-alone", encoder, decoder)
    alone, both, one = ({"variant": variant} for variant in ("lm", "lm2lm", "lmshare"))
    yield Claim("An encoder helps a language model", "modern", {"variant": "enc2lm"}, alone)
    yield Claim("Two sides of a language model are better than one", "modern", both, alone)
    for row, what in (({"variant": "enc2lm"}, "an encoder helps a language model"), (both, "two sides are better")):
        yield Claim(f"At equal operations {what}", "modern", row, {}, "equal-operations")
    yield Claim("Sharing helps two sides of a language model", "modern", one, both)
    yield Claim("A shared BERT is better than a shared language model", "summarization", shared, one, "modern")
    yield Claim("Copied attention helps a shared BERT", "copied-attention", shared, shared, "summarization")
    yield Claim("Copied attention helps a shared language model", "copied-attention", one, one, "modern")
