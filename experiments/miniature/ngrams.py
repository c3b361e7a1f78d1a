"""What counting alone would learn of the same text: perplexities of a unigram and a trigram model."""

from __future__ import annotations

import math
from collections import Counter

Ids = list[list[int]]


def ngram_perplexities(training: Ids, held_out: Ids, ends: bool, order: int = 3) -> dict[str, float]:
    """Perplexities of every token but the first of each text, from up to `order` - 1 tokens on its left.

    `ends`: the last token counts as well, with which every text ends.

    Witten-Bell: an order mixes with the next lower one by how many different tokens have followed its context (Chen and
    Goodman 1999, section 2.4); below the unigram, all tokens that were seen are equal.
    """
    follows: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    for ids in training:
        for size in range(1, order + 1):
            follows[size - 1].update(tuple(ids[at - size + 1 : at + 1]) for at in range(max(1, size - 1), len(ids)))
    totals: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    kinds: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    for size, counted in enumerate(follows):
        for gram, count in counted.items():
            totals[size][gram[:-1]] += count
            kinds[size][gram[:-1]] += 1
    words = len(follows[0]) + 1  # and one that was never seen

    def probability(context: tuple[int, ...], token: int) -> float:
        below = 1 / words if not context else probability(context[1:], token)
        if not context:
            seen, others = totals[0][()], kinds[0][()]
            return (follows[0][token,] + others * below) / (seen + others)
        size = len(context)
        if not totals[size][context]:
            return below
        seen, others = totals[size][context], kinds[size][context]
        return (follows[size][*context, token] + others * below) / (seen + others)

    logs, tokens = [0.0, 0.0], 0
    for ids in held_out:
        for at in range(1, len(ids) - (not ends)):
            tokens += 1
            logs[0] += math.log(probability((), ids[at]))
            logs[1] += math.log(probability(tuple(ids[max(0, at - order + 1) : at]), ids[at]))
    unigram, ngram = (round(math.exp(-log / tokens), 2) for log in logs)
    return {"unigram": unigram, f"{order}gram": ngram}
