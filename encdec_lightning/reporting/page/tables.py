"""A report's sections as tables of HTML, with the numbers of the terminal; and a table of all runs with their state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from encdec_lightning.reporting.overview import Overview
from encdec_lightning.reporting.page.runs import places
from encdec_lightning.reporting.report.formats import Cell, notes, table, title
from encdec_lightning.reporting.report.rows import Section


def score_tables(sections: Sequence[Section]) -> str:
    """A table for each test set, with what it does not say by itself below it."""
    parts = []
    for number, section in enumerate(sections):
        header, rows = table(section)
        kinds = ["baseline" if row.label else row.state.split()[-1] for row in section.rows]
        parts.append(_table(f"scores-{number}", title(section), header, rows, kinds))
        parts += [f'<p class="note">{escape(note)}</p>' for note in notes(section)]
        told = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in section.signatures.items() if text]
        if told:
            parts.append(f"<details><summary>What exactly was computed</summary><dl>{''.join(told)}</dl></details>")
    return "\n".join(parts)


def runs_table(sections: Sequence[Section], said: Iterable[str]) -> str:
    """Every run with its state and, of one that failed or cannot be read, why; and what the report says of them."""
    overviews = all_runs(sections)
    rows = []
    for each, place in zip(overviews, places(overviews), strict=True):
        step = each.progress.get("step")
        told = f"{step:,}" if isinstance(step, int) else "-"
        texts = (place, each.state, each.error or "")
        first, state, why = (Cell(text, number=False) for text in texts)
        rows.append([first, state, Cell(told), why])
    parts = [_table("runs-table", counts(overviews), ["run", "state", "step", "why"], rows, [r[1].text for r in rows])]
    lines = [f"<li>{escape(line)}</li>" for line in said]
    if lines:
        parts.append(f"<p>What the report says of them:</p><ul>{''.join(lines)}</ul>")
    return "\n".join(parts)


def all_runs(sections: Sequence[Section]) -> list[Overview]:
    """The runs of all sections."""
    return [each for section in sections for row in section.rows for each in row.runs]


def counts(overviews: Sequence[Overview]) -> str:
    """How many runs there are, by state."""
    states = [each.state for each in overviews]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(overviews)} {'run' if len(overviews) == 1 else 'runs'}: {told}"


def _table(name: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], kinds: Sequence[str]) -> str:
    """A table whose columns a click or a key sorts; `kinds` are what the rows are, for the style sheet."""
    numbers = [cell.number for cell in rows[0]] if rows else [False] * len(header)
    heads = "".join(
        f'<th scope="col"{_number(number)}><button type="button">{escape(text)}</button></th>'
        for text, number in zip(header, numbers, strict=True)
    )
    body = "".join(
        f'<tr data-kind="{escape(kind)}">{"".join(_cell(cell, place == 0) for place, cell in enumerate(cells))}</tr>\n'
        for cells, kind in zip(rows, kinds, strict=True)
    )
    return (
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}" class="sortable"><caption id="{name}-caption"><span>{escape(caption)}</span></caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _cell(cell: Cell, first: bool) -> str:
    text = escape(cell.text)
    if cell.best:
        text = f'<strong>{text}</strong><span class="hidden"> (best)</span>'
    if cell.mark:
        text += f"<sup>{escape(cell.mark)}</sup>"
    if first:
        return f'<th scope="row"{_number(cell.number)}>{text}</th>'
    return f"<td{_number(cell.number)}>{text}</td>"


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
