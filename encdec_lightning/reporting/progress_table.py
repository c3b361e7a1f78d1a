"""The table of `encdec-sweep`: what each run is, how far it is, what it has scored, and what needs somebody's hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from encdec_lightning.advice import goes_on
from encdec_lightning.reporting.fitting import NARROW, least_telling_first, left_out
from encdec_lightning.reporting.overview import Overview, differing, last_sign, option_texts, run_names, short_names

STYLES = {"finished": "green", "failed": "red", "silent": "red", "preempted": "yellow", "pruned": "cyan"}


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    texts: Sequence[str]
    whole: bool = False
    """Whether its texts are never folded."""
    number: bool = False

    @property
    def least(self) -> int:
        """The characters that it needs."""
        widest = max(map(len, (self.name, *self.texts)))
        return widest if self.whole else min(widest, NARROW)


def overview_table(overviews: Sequence[Overview], width: int, now: float | None = None) -> Table:
    """A row for each run: what sets it apart, its state, step, scores, where it runs, and the time that is left.

    Where `width` characters are too few, the least telling options are left out first, then scores, and the line below
    names them.
    """
    now = time.time() if now is None else now
    options = differing(overviews)
    names = list(dict.fromkeys(name for each in overviews for name in each.scores))
    apart = [*map(Column, short_names(options), [option_texts(overviews, path) for path in options])]
    scores = [Column(name, [_score(each, name) for each in overviews], whole=True, number=True) for name in names]
    left, where = Column("left", [*map(_left, overviews)]), Column("where", [*map(_where, overviews)])
    columns = [
        Column("run", run_names(overviews), whole=True),
        Column("state", [_state(each, now) for each in overviews]),
        Column("step", [*map(_steps, overviews)]),
        *(each for each in (left, *apart, *scores, where) if each not in (left, where) or {*each.texts} != {"-"}),
    ]
    ranked = [apart[number] for number in least_telling_first([each.texts for each in apart])]
    may_go = [*ranked[:-1], *reversed(scores[1:]), where, left, *ranked[-1:], *scores[:1]]
    places = [columns.index(each) for each in may_go if each in columns]
    hidden = left_out([each.least for each in columns], places, width)
    states = [each.state for each in overviews]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lacking = ", ".join(columns[place].name for place in hidden)
    table = Table(
        title=f"{len(overviews)} runs: {counts}",
        title_justify="left",
        caption=f"There is no room here for {lacking}: a wider terminal or a file has all." if hidden else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown = [each for place, each in enumerate(columns) if place not in hidden]
    for each in shown:
        table.add_column(
            escape(each.name),
            justify="right" if each.number else "left",
            overflow="fold",
            no_wrap=each.whole,
            min_width=each.least,
        )
    for row, one in enumerate(overviews):
        cells = [escape(each.texts[row]) for each in shown]
        style = STYLES.get(one.state)
        if style:
            cells[1] = f"[{style}]{cells[1]}[/]"
        table.add_row(*cells)
    return table


def remarks(overviews: Sequence[Overview]) -> list[str]:
    """A line on each run that needs somebody's hand."""
    found = []
    for each, name in zip(overviews, run_names(overviews), strict=True):
        if each.error is not None:
            found.append(f"{name}: {each.error}")
        elif each.state == "silent":
            found.append(f"{name} gives no sign of life; if its process is gone, {goes_on(each.run.folder)}")
        elif each.state == "preempted":
            found.append(f"{name} is preempted; {goes_on(each.run.folder)}")
    return found


def _score(each: Overview, name: str) -> str:
    return f"{each.scores[name]:.2f}" if name in each.scores else "-"


def _state(each: Overview, now: float) -> str:
    doing = each.progress.get("doing")
    if each.state == "running" and doing:
        return str(doing)
    if each.state == "silent":
        return f"silent for {_time(now - (last_sign(each.run, each.progress) or now))}"
    return each.state


def _steps(each: Overview) -> str:
    step, steps = each.progress.get("step"), each.progress.get("steps")
    if not isinstance(step, int):
        return "-"
    return f"{step:,} of {steps:,}" if isinstance(steps, int) else f"{step:,}"


def _where(each: Overview) -> str:
    if each.state not in ("running", "silent"):
        return "-"
    job = each.progress.get("job")
    return f"{each.progress.get('host', '-')}{f', job {job}' if job else ''}"


def _left(each: Overview) -> str:
    left = each.progress.get("seconds_left")
    return _time(left) if each.state == "running" and isinstance(left, int | float) else "-"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
