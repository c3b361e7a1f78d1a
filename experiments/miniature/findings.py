"""The paper's claims, tested: `python experiments/miniature/findings.py` prints a table in markdown.

A claim is that one row scores more than another on a task. Statistics of each test example are averaged over the seeds
that both rows have; the interval is that of the paired bootstrap over examples, the p-value that of approximate
randomization, corrected for the number of claims (Holm). Seeds are the other source of chance: a claim holds if p is
below 0.05 and each seed has the claimed sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results import RESULTS, Point, Result, read, statistics

from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import difference, holm

SCORES = {"fusion": ("sari", "sari"), "translation": ("bleu_uncased", "bleu_uncased")}
"""By block the metric and its value that decide; everywhere else those of summaries."""
SUMMARIES = ("rouge", "rougeL")
LEVEL = 0.05


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


@dataclass(frozen=True)
class Finding:
    """What the runs say about a claim."""

    claim: Claim
    seeds: dict[str, float]
    """The difference of each seed."""
    value: float
    """The difference, in points of the score, of what both rows' statistics make that are averaged over seeds; of BLEU
    that is not quite the difference of means."""
    low: float
    high: float
    p: float
    """Not corrected."""

    def verdict(self, corrected: float) -> str:
        """In words, with the p-value that was corrected."""
        signs = {value > 0 for value in self.seeds.values()}
        if len(self.seeds) < 2:
            return "one seed alone"
        if corrected >= LEVEL or len(signs) > 1:
            return "too small to tell"
        return "holds" if self.value > 0 else "the contrary holds"


def claims() -> Iterator[Claim]:
    """All claims of sections 4 and 5 of the paper that the miniature asks, and four about language models."""

    def rows(text: str, blocks: tuple[str, ...], more: str, less: str) -> Iterator[Claim]:
        for block in blocks:
            yield Claim(text, block, {"variant": more}, {"variant": less})

    english, everywhere = ("summarization", "fusion"), ("summarization", "fusion", "translation")
    of_bert, english_of_bert = (*everywhere, "minilm"), (*english, "minilm")
    yield from rows("A pretrained encoder is essential", of_bert, "bert2rnd", "rnd2rnd")
    yield from rows("so it is with a pretrained decoder", of_bert, "bert2bert", "rnd2bert")
    yield from rows("A pretrained encoder is worth more than a decoder", of_bert, "bert2rnd", "rnd2bert")
    yield from rows("A pretrained decoder helps", of_bert, "bert2bert", "bert2rnd")
    yield from rows("so it does without a pretrained encoder", of_bert, "rnd2bert", "rnd2rnd")
    yield from rows("Sharing helps where both sides are one language", english_of_bert, "bertshare", "bert2bert")
    yield from rows("Sharing hurts translation", ("translation",), "bert2bert", "bertshare")
    yield from rows("Two vocabularies hurt: one is better", english, "roberta2gpt", "bert2gpt")
    yield from rows("Two vocabularies hurt: a random decoder is better", everywhere, "bert2rnd", "bert2gpt")
    yield from rows("Two vocabularies hurt: nothing pretrained is better", english, "rnd2rnd", "bert2gpt")
    yield from rows("A language model alone is worse than random sides", ("translation",), "rnd2rnd", "gpt")
    yield from rows("RoBERTa shared is better than BERT shared", english, "robertashare", "bertshare")
    for share, words in (("0.1", "10%"), ("0.01", "1%")):
        yield Claim(
            f"With {words} of the data fewer random parameters are better",
            "less-data",
            {"variant": "bertshare", "train_share": share},
            {"variant": "bert2rnd", "train_share": share},
        )
    shared = {"variant": "bertshare"}
    for part, other in (("embeddings_only", "layers"), ("layers_only", "embeddings")):
        lacking = shared | {"ablation": part}
        yield Claim(f"Pretrained {other} help", "summarization", shared, lacking, "parts")
    embedded = shared | {"ablation": "embeddings_only"}
    yield Claim("Pretrained embeddings alone help", "parts", embedded, {"variant": "rnd2rnd"}, "summarization")
    yield Claim("A new vocabulary hurts", "summarization", shared, {}, "new-vocabulary")
    alone, both, one = ({"variant": variant} for variant in ("lm", "lm2lm", "lmshare"))
    yield Claim("An encoder helps a language model", "modern", {"variant": "enc2lm"}, alone)
    yield Claim("Two sides of a language model are better than one", "modern", both, alone)
    yield Claim("Sharing helps two sides of a language model", "modern", one, both)
    yield Claim("A shared BERT is better than a shared language model", "summarization", shared, one, "modern")


def found(claim: Claim, folder: Path = RESULTS) -> Finding | None:
    """What the runs say; None where a row has no run, or the two rows no seed in common."""
    metric_name, value_name = SCORES.get(claim.block, SUMMARIES)
    metric = load_metric(metric_name)
    more = _of(claim.block, claim.more, folder)
    less = _of(claim.other_block or claim.block, claim.less, folder)
    seeds = sorted(more.keys() & less.keys())
    if not seeds:
        return None
    if len({each[seed].test for each in (more, less) for seed in seeds}) > 1:
        raise ValueError(f"{claim.text}: its rows were tested on other examples")
    arrays = [
        np.stack([statistics(block, rows[seed], metric_name, folder) for seed in seeds])
        for block, rows in ((claim.other_block or claim.block, less), (claim.block, more))
    ]
    at = metric.names.index(value_name)
    told = difference(arrays[0].mean(axis=0), arrays[1].mean(axis=0), metric.aggregate)
    count = arrays[0].shape[1]
    each = [metric.aggregate(values.sum(axis=1), count)[:, at] for values in arrays]
    by_seed = dict(zip(seeds, (each[1] - each[0]).tolist(), strict=True))
    return Finding(claim, by_seed, *(float(getattr(told, name)[at]) for name in ("value", "low", "high", "p")))


def _of(block: str, point: Point, folder: Path) -> dict[str, Result]:
    """A row's runs by their seeds; raises `ValueError` where they have several settings."""
    found = {each.point["seed"]: each for each in read(block, folder) if _without_seed(each) == point}
    if len({each.setting for each in found.values()}) > 1:
        raise ValueError(f"{block} {point}: its runs have several settings; remove the lines of the older one")
    return found


def _without_seed(result: Result) -> Point:
    return {name: value for name, value in result.point.items() if name != "seed"}


def table(findings: list[Finding]) -> str:
    """A line a claim."""
    lines = ["| claim | task | difference | each seed | p | |", "|---|---|---:|---|---:|---|"]
    for each, p in zip(findings, holm([each.p for each in findings]), strict=True):
        seeds = ", ".join(f"{value:+.1f}" for value in each.seeds.values())
        interval = f"{each.value:+.2f} ({each.low:+.2f} to {each.high:+.2f})"
        lines.append(f"| {each.claim.text} | {each.claim.block} | {interval} | {seeds} | {p:.3f} | {each.verdict(p)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of the claims that have runs."""
    every = {claim: found(claim) for claim in claims()}
    told = [finding for finding in every.values() if finding is not None]
    print(table(told) if told else "There are no results yet: run.py makes them.")
    for claim, finding in every.items():
        if finding is None:
            print(f"No runs yet: {claim.text} ({claim.block}).")


if __name__ == "__main__":
    main()
