"""Draw what the miniature has found: `python experiments/miniature/figures.py`.

It writes rows.png with a panel a task and a dot a run, and claims.png and ablations.png with the difference of each
claim and its interval.
"""

from __future__ import annotations

import sys
from pathlib import Path

from claims import claims
from findings import LEVEL, SCORES, SUMMARIES, Finding, found
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reproduce import cells
from results import read
from run import GPT, ROBERTA, ROWS

from encdec_lightning.evaluation.significance import holm

FOLDER = Path(__file__).parent
MATRIX, ABLATIONS = ("summarization", "fusion", "translation", "minilm"), "ablations"
Panel = dict[str, tuple[Finding, float]]
"""By a claim's words what was found, and its corrected p-value."""
NAMES = {"rougeL": "ROUGE-L", "sari": "SARI", "bleu_uncased": "BLEU (uncased)"}
DECIDED, OPEN, NULL, PAPER = "tab:blue", "0.6", "0.3", "tab:orange"


def rows(blocks: list[str]) -> Figure:
    """A panel a block, a line a row of the paper, a dot a seed; the values stand beside their mean."""
    figure = Figure(figsize=(3.4 * len(blocks) + 1, 3.8), layout="constrained")
    for axes, block in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks, strict=True):
        _panel(axes, block)
    return figure


def _panel(axes: Axes, block: str) -> None:
    name = SCORES.get(block, SUMMARIES)[1]
    runs = cells(block)
    order = [row for row in (*ROWS, *ROBERTA, *GPT) if f"variant={row}" in runs]
    for place, row in enumerate(order):
        scores = [each.scores[name] for each in runs[f"variant={row}"].values()]
        mean = sum(scores) / len(scores)
        axes.barh(place, mean, color=OPEN, alpha=0.35)
        axes.plot(scores, [place] * len(scores), "o", color=DECIDED, markersize=4)
        axes.annotate(f"{mean:.1f}", (max(scores), place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set(yticks=range(len(order)), yticklabels=[row.upper() for row in order], xlabel=NAMES[name], title=block)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def forests(findings: list[Finding]) -> dict[str, Figure]:
    """Of the paper's rows, a panel a block; and of the blocks that ask one question each, all in one panel."""
    corrected = holm([each.p for each in findings])
    panels: dict[str, Panel] = {}
    for each, p in zip(findings, corrected, strict=True):
        block = each.claim.block if each.claim.block in MATRIX and not each.claim.other_block else ABLATIONS
        panels.setdefault(block, {})[each.claim.text] = (each, p)
    figures = {}
    for name, of_figure in (
        ("claims", {block: panels[block] for block in MATRIX if block in panels}),
        (ABLATIONS, {block: panel for block, panel in panels.items() if block == ABLATIONS}),
    ):
        if of_figure:
            figures[name] = _forest(of_figure)
    return figures


def _forest(panels: dict[str, Panel]) -> Figure:
    """A line a claim: the difference, its interval, and in blue where p, corrected, is below the level."""
    texts = [*dict.fromkeys(claim.text for claim in claims() for panel in panels.values() if claim.text in panel)]
    figure = Figure(figsize=(4.6 + max(2.6 * len(panels), 4.4), 0.32 * len(texts) + 1.4), layout="constrained")
    told = f"dot: all seeds, with the 95% interval, blue where corrected p < {LEVEL}; bar: a seed; diamond: the paper"
    figure.suptitle(told, fontsize=9)
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (block, panel) in zip(columns, panels.items(), strict=True):
        for text, (each, p) in panel.items():
            place, color = texts.index(text), DECIDED if p < LEVEL else OPEN
            axes.plot([each.low, each.high], [place, place], color=color, linewidth=2)
            axes.plot([each.value], [place], "o", color=color, markersize=6)
            axes.plot([*each.seeds.values()], [place] * len(each.seeds), "|", color=NULL, markersize=9)
            if each.claim.paper is not None:
                axes.plot([each.claim.paper], [place], "D", color=PAPER, markersize=4, fillstyle="none")
        score = NAMES[SCORES.get(block, SUMMARIES)[1]]
        axes.axvline(0, color=NULL, linewidth=1)
        axes.set(title=block, xlabel=f"difference, {score}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    columns[0].set(yticks=range(len(texts)), yticklabels=texts)
    columns[0].set_ylim(len(texts) - 0.5, -0.5)
    return figure


def main() -> int:
    """1 where nothing has been run."""
    blocks = [block for block in MATRIX if read(block)]
    findings = [told for told in map(found, claims()) if told is not None]
    if not blocks or not findings:
        print("There are no results yet: run.py makes them.", file=sys.stderr)
        return 1
    for name, figure in {"rows": rows(blocks), **forests(findings)}.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=120)
        print(FOLDER.name + f"/{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
