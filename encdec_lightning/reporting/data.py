"""A task's data as a person, or a program, wants to see them before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.building import SKIPPED
from encdec_lightning.data.examples.store import SIDES, OnDisk
from encdec_lightning.data.inspection import PERCENTILES, SideStatistics, SplitStatistics, edges, histogram

EXAMPLES = 5
SENTENCES = "Sentences"
"""What the targets of an extract are counted in, one for each of the source's; others are counted in tokens."""
BINS, PICTURE_BINS = 12, 40  # of the histograms
BAR = 30  # characters
EXCERPT = 60  # tokens of an example that are shown


def describe_data(statistics: Mapping[str, SplitStatistics]) -> dict[str, Any]:
    """Plain values, by split: what `--json` prints."""
    return {split: asdict(each) for split, each in statistics.items()}


def show_data(
    splits: Mapping[str, OnDisk],
    statistics: Mapping[str, SplitStatistics],
    tokenizers: Tokenizers,
    console: Console | None = None,
) -> None:
    """Print tables of the splits, histograms of the first one's lengths, and some examples as the model sees them."""
    console = console or Console(highlight=False, emoji=False)
    console.print(_rows_table(statistics))
    console.print(_lengths_table(statistics))
    console.print(_texts_table(statistics))
    name, first = next(iter(splits.items()))
    for side in range(2):
        what = SENTENCES if side and first.meta["labels"] else "Tokens"
        console.print(_histogram_table(first, side, f"{what} of {name} {SIDES[side]}s"))
    count = len(first.lengths)
    for number in sorted({position * count // EXAMPLES for position in range(EXAMPLES)}):
        console.print(_example(first, number, tokenizers), soft_wrap=True)


def show_prepared(splits: Mapping[str, OnDisk], console: Console | None = None) -> None:
    """Print what lies in the cache now."""
    console = console or Console(highlight=False, emoji=False)
    of_targets = SENTENCES.lower() if any(each.meta["labels"] for each in splits.values()) else "target tokens"
    table = _table("Prepared", "split", "examples", "source tokens", of_targets, "MB", "rows skipped")
    for split, examples in splits.items():
        size = sum(file.stat().st_size for file in examples.folder.iterdir())
        tokens = examples.lengths.sum(axis=0, dtype="int64").tolist()
        counts = [len(examples.lengths), *tokens, round(size / 1e6), examples.meta["skipped"]]
        table.add_row(split, *(f"{count:,}" for count in counts))
    console.print(table)
    for split, examples in splits.items():
        console.print(f"{split}: {examples.folder}", soft_wrap=True)
        if examples.meta["skipped"]:
            console.print(f"{split}: rows skipped are listed in {examples.folder / SKIPPED}", soft_wrap=True)


def _rows_table(statistics: Mapping[str, SplitStatistics]) -> Table:
    table = _table("Examples", "split", "examples", "skipped", "dropped", "too long", "repeated", "in training")
    for split, each in statistics.items():
        counts = (each.examples, each.skipped, each.dropped, each.too_long)
        leaks = "" if split == "train" else _share(each.in_training, each.examples)
        table.add_row(split, *(f"{n:,}" for n in counts), _share(each.repeated, each.examples), leaks)
    return table


def _lengths_table(statistics: Mapping[str, SplitStatistics]) -> Table:
    names = ("mean", *(f"p{percentile}" for percentile in PERCENTILES), "longest", "cut")
    table = _table("Tokens of a text before it is cut", "", *names)
    for split, each in statistics.items():
        for name in SIDES:
            side: SideStatistics = getattr(each, name)
            counted = f", {SENTENCES.lower()}" if side.limit is None else ""
            cut = f"{_share(side.truncated, each.examples)} to {side.limit}" if side.truncated else "0"
            numbers = (*side.percentiles, side.longest)
            table.add_row(f"{split} {name}{counted}", f"{side.mean:.1f}", *(f"{n:,}" for n in numbers), cut)
    return table


def _texts_table(statistics: Mapping[str, SplitStatistics]) -> Table:
    table = _table("Texts", "", "tokens", "unknown tokens", "repeated", "in training")
    for split, each in statistics.items():
        for name in SIDES:
            side: SideStatistics = getattr(each, name)
            leaks = "" if split == "train" else _share(side.in_training, each.examples)
            unknown, repeated = _share(side.unknown_tokens, side.tokens), _share(side.repeated, each.examples)
            table.add_row(f"{split} {name}", f"{side.tokens:,}", unknown, repeated, leaks)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _share(part: int, whole: int) -> str:
    """A count's share of the whole: 0 only for none."""
    if not part:
        return "0"
    percent = 100 * part / whole
    return f"{percent:.1f}%" if percent >= 0.1 else f"{part:,}"


def _histogram_table(examples: OnDisk, side: int, title: str) -> Table:
    limits = edges([examples], side, BINS)
    counts = histogram(examples, side, limits)
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for justify in ("right", "left", "right"):
        table.add_column(justify=justify)
    for number, count in enumerate(counts.tolist()):
        begin, end = limits[number], limits[number + 1] - 1
        span = f"{begin} on" if number == BINS - 1 else f"{begin}" if begin == end else f"{begin}-{end}"
        table.add_row(span, "█" * round(BAR * count / max(1, counts.max())), f"{count:,}")
    return table


def _example(examples: OnDisk, number: int, tokenizers: Tokenizers) -> str:
    """An example's tokens, as encoder, decoder and loss get them."""
    source, target = (ids.tolist() for ids in examples.ids(number))
    rows = {"source": tokenizers.source.convert_ids_to_tokens(source)}
    if examples.meta["labels"]:
        rows["labels"] = [str(each) for each in target]
    else:
        rows |= {
            "decoder": tokenizers.target.convert_ids_to_tokens([tokenizers.start_id, *target[:-1]]),
            "target": tokenizers.target.convert_ids_to_tokens(target),
        }
    lines = [f"[bold]example {escape(examples.pair(number).id)}[/]"]
    for name, tokens in rows.items():
        shown = " ".join(tokens if len(tokens) <= EXCERPT else [*tokens[: EXCERPT - 2], "...", tokens[-1]])
        lines.append(f"  [bold]{name:<8}[/]{escape(shown)}")
    return "\n".join(lines)


def draw_lengths(splits: Mapping[str, OnDisk], picture: Path) -> None:
    """Write a picture of the token lengths of both sides of every split, the limits marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (side, name) in zip(figure.subplots(1, 2), enumerate(SIDES), strict=True):
        limits = edges(splits.values(), side, PICTURE_BINS)
        for split, examples in splits.items():
            counts = histogram(examples, side, limits)
            axes.stairs(counts / max(1, counts.sum()), limits, label=f"{split} ({len(examples.lengths):,})")
            limit = examples.meta["limits"][side]
        if limit is not None and limit <= limits[-1]:
            axes.axvline(limit, color="black", linestyle=":", linewidth=1, label=f"limit {limit}")
        what = SENTENCES.lower() if side and examples.meta["labels"] else "tokens"
        axes.set(xlabel=f"{what} of the {name}", ylabel="share of the examples")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{os.getpid()}-{picture.name}")
    figure.savefig(temporary, dpi=150)
    temporary.replace(picture)
