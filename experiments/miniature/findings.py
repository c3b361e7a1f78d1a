"""The paper's claims, tested: `python experiments/miniature/findings.py` prints a table in markdown.

A claim is that one row scores more than another on a task. There are two sources of chance. Of the examples: their
statistics are averaged over the seeds that both rows have; the interval is that of the paired bootstrap, the p-value
that of approximate randomization, corrected for the number of claims (Holm). Of the seeds: the difference that they
alone make between two equal rows in 95% of all cases, after Student, from the variance that is left in a table of rows
and seeds when the means of both are taken off. A claim holds if p is below 0.05 and its difference is larger than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from claims import Claim, claims
from results import RESULTS, Point, Result, read, statistics
from run import BLOCKS

from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.evaluation.significance import difference, holm

SCORES = {"fusion": ("sari", "sari"), "translation": ("bleu_uncased", "bleu_uncased")}
"""By block the metric and its value that decide; everywhere else those of summaries."""
SUMMARIES = ("rouge", "rougeL")
ENOUGH = 3
"""Degrees of freedom from which on a block's own seeds tell how much they matter."""
LEVEL = 0.05
BLOCK_OF_TASK = {"debsum": "summarization", "wikifusion": "fusion", "debmt_en_de": "translation"}
"""The block of a task that has most rows, from which the variance over seeds is taken for smaller ones."""
STUDENT = (
    *(12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23),
    *(2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09),
)
"""Two-sided 95% quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""


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
    by_chance: float | None
    """How large a difference seeds alone make between equal rows in 95% of all cases; None where it is not known."""

    def verdict(self, corrected: float) -> str:
        """In words, with the p-value that was corrected."""
        if corrected >= LEVEL:
            return "too small to tell"
        if self.by_chance is None:
            return "one seed alone"
        if abs(self.value) <= self.by_chance:
            return "seeds differ as much"
        return "holds" if self.value > 0 else "the contrary holds"


def found(claim: Claim, folder: Path = RESULTS) -> Finding | None:
    """What the runs say; None where a row has no run, or the two rows have no seed in common.

    Rows can be compared where their runs of a seed are of one precision and of the same checkpoints.
    """
    metric_name, value_name = SCORES.get(claim.block, SUMMARIES)
    metric = load_metric(metric_name)
    more = _of(claim.block, claim.more, folder)
    less = _of(claim.other_block or claim.block, claim.less, folder)
    seeds = sorted(seed for seed in more.keys() & less.keys() if _comparable(more[seed], less[seed]))
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
    values = (float(getattr(told, name)[at]) for name in ("value", "low", "high", "p"))
    return Finding(claim, by_seed, *values, by_chance(claim.block, value_name, len(seeds), folder))


def by_chance(block: str, score: str, seeds: int, folder: Path = RESULTS) -> float | None:
    """How far apart the means of two equal rows over so many seeds lie in 95% of all cases, at most.

    It is what the seeds of the rows of the block's task tell, or what its own do, where that is more and not from a
    handful of runs.
    """
    task = BLOCK_OF_TASK[BLOCKS[block].task]
    spreads = [spread(task, score, folder)]
    if block != task:
        own = spread(block, score, folder)
        spreads.append(own if own is not None and (spreads[0] is None or own[1] >= ENOUGH) else None)
    limits = [
        STUDENT[min(freedom, len(STUDENT)) - 1] * deviation * math.sqrt(2 / seeds)
        for deviation, freedom in filter(None, spreads)
    ]
    return max(limits, default=None)


def spread(block: str, score: str, folder: Path = RESULTS) -> tuple[float, int] | None:
    """Standard deviation of a score from seed to seed, with its degrees of freedom; None with too few runs to tell.

    What all rows of a seed have in common, such as their checkpoints, is not counted: it takes no part in differences.
    """
    rows: dict[str, dict[str, float]] = {}
    for each in read(block, folder):
        rows.setdefault(str(_without_seed(each)), {})[each.point["seed"]] = each.scores.get(score, math.nan)
    seeds = {seed for row in rows.values() for seed in row}
    table = np.array([[row[seed] for seed in sorted(seeds)] for row in rows.values() if row.keys() == seeds])
    freedom = (len(table) - 1) * (len(seeds) - 1)
    if freedom < 1:
        return None
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return math.sqrt((rest**2).sum() / freedom), freedom


def _comparable(one: Result, other: Result) -> bool:
    common = one.checkpoints.keys() & other.checkpoints.keys()
    return one.precision == other.precision and all(one.checkpoints[name] == other.checkpoints[name] for name in common)


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
    lines = ["| claim | task | paper | here | each seed | seeds alone | p | |", "|---|---|---:|---:|---|---:|---:|---|"]
    for each, p in zip(findings, holm([each.p for each in findings]), strict=True):
        claim, seeds = each.claim, ", ".join(f"{value:+.2f}" for value in each.seeds.values())
        interval = f"{each.value:+.2f} ({each.low:+.2f} to {each.high:+.2f})"
        paper = "" if claim.paper is None else f"{claim.paper:+.1f}"
        chance = "" if each.by_chance is None else f"{each.by_chance:.2f}"
        told = (claim.text, claim.block, paper, interval, seeds, chance, f"{p:.3f}", each.verdict(p))
        lines.append(f"| {' | '.join(told)} |")
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
