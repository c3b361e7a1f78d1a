"""ROUGE of 11,490 real summaries, as many as the test set of CNN/DailyMail: this project's and rouge-score's, in turns.

    python experiments/scoring/rouge.py debsum/train.jsonl.gz --column document

A reference is 60 words of a row's text, its prediction the 60 words that begin ten words later.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from encdec_lightning.evaluation.metric import score, statistics_of
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import Prediction

COUNT = 11_490


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a jsonl file, compressed or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def main() -> None:
    """Print the medians and the ratio, and check that every digit is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--column", default="document")
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    read = list(rows(given.file))
    pairs = []
    for number in range(COUNT):
        words = read[number % len(read)][given.column].split()
        texts = (" ".join(words[begin : begin + given.words]) for begin in (0, min(10, len(words) // 2)))
        pairs.append(Prediction(str(number), "", *texts))
    length = statistics.fmean(len(each.reference.split()) for each in pairs)
    metric, own, theirs, whole = load_metric("rouge"), [], [], []
    for _ in range(given.rounds):
        started = time.perf_counter()
        found = statistics_of(pairs, metric)
        own.append(time.perf_counter() - started)
        started = time.perf_counter()
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
        told = [scorer.score(each.reference, each.prediction) for each in pairs]
        theirs.append(time.perf_counter() - started)
        expected = np.array([[each[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")] for each in told])
        assert np.array_equal(found, expected), "the values differ"
        started = time.perf_counter()
        score(pairs, metric)
        whole.append(time.perf_counter() - started)
    print(f"{COUNT:,} pairs of {length:.0f} words: every value equal")
    for name, seconds in (("this project", own), ("rouge-score", theirs), ("with intervals", whole)):
        print(f"{name:<16}{statistics.median(seconds):8.2f} s   {', '.join(f'{each:.2f}' for each in seconds)}")
    ratios = [two / one for one, two in zip(own, theirs, strict=True)]
    print(f"{'ratio':<16}{statistics.median(ratios):8.1f}")


if __name__ == "__main__":
    main()
