"""A report's sections as text: for the terminal, Markdown, CSV, LaTeX and JSON. They show the same numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from encdec_lightning.reporting.fitting import NARROW, least_telling_first, left_out
from encdec_lightning.reporting.overview import run_names, short_names
from encdec_lightning.reporting.progress_table import STYLES
from encdec_lightning.reporting.report.rows import COSTS, Row, Section, Value

LONG = 1e12
"""Costs above are shown with an exponent: operations."""
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""What stands behind a value that differs from the chosen row's, by the corrected p-value."""
PAPER = "paper "
"""What a score's name begins with over the paper's figures."""
LEGEND = "* p < 0.05, ** p < 0.01, *** p < 0.001 against {row}: approximate randomization, Holm's correction"


@dataclass(frozen=True)
class Cell:
    """A place in a table."""

    text: str
    best: bool = False
    mark: str = ""
    number: bool = True


def table(section: Section) -> tuple[list[str], list[list[Cell]]]:
    """The titles of a section's columns, and its rows."""
    names = short_names(section.options)
    several = any(len(row.runs) > 1 for row in section.rows)
    unfinished = any(row.state not in ("", "finished") for row in section.rows)
    costs = [name for name in COSTS if any(name in row.costs for row in section.rows)]
    baselines = any(row.label for row in section.rows)
    printed = {score for _, score in section.printed}
    header = [*(["system"] if baselines or not names else []), *names, *(["state"] if unfinished else [])]
    shown = [name for score in section.scores for name in (score, *([PAPER + score] if score in printed else []))]
    header += [*(["runs"] if several else []), *shown, *(COSTS[name] for name in costs)]
    rows = []
    for number, row in enumerate(section.rows):
        cells = [Cell(row.label or _name(row), number=False)] if baselines or not names else []
        cells += [Cell(each, number=False) for each in row.options]
        cells += [Cell(row.state, number=False)] if unfinished else []
        cells += [Cell(str(len(row.runs)) if row.runs else "")] if several else []
        for name in section.scores:
            best, mark = number in section.best(name), _mark(section.p_values.get((number, name)))
            cells.append(Cell(_score(row.scores.get(name)), best, mark))
            if name in printed:
                own = section.printed.get((number, name))
                cells.append(Cell("-" if own is None else f"{own:.2f}"))
        cells += [Cell(_cost(row.costs.get(name))) for name in costs]
        rows.append(cells)
    return header, rows


def notes(section: Section) -> list[str]:
    """What the table alone does not say."""
    found = []
    if any(each.deviation is not None for row in section.rows for each in row.scores.values()):
        found.append("± is the standard deviation over seeds.")
    if section.against is not None:
        found.append(f"{LEGEND.format(row=_described(section, section.rows[section.against]))}.")
    if section.printed_from is not None:
        found.append(f"Columns that begin with `{PAPER.strip()}` are the figures of {section.printed_from}.")
    return found


def terminal(sections: Sequence[Section], width: int) -> Group:
    """Tables of rich that fit into so many characters; a line names the columns for which there is no room."""
    parts: list[Any] = []
    for section in sections:
        header, rows = table(section)
        hidden = _beyond(section, header, rows, width)
        lacking = [header[place] for place in hidden]
        header = [name for place, name in enumerate(header) if place not in hidden]
        rows = [[cell for place, cell in enumerate(row) if place not in hidden] for row in rows]
        made = Table(
            title=escape(title(section)), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for place, (name, cell) in enumerate(zip(header, rows[0], strict=True)):
            widest = max(len(each) for each in (name, *(row[place].text for row in rows)))
            justify: Literal["left", "right"] = "right" if cell.number else "left"
            made.add_column(name, justify=justify, overflow="fold", no_wrap=cell.number, min_width=min(widest, NARROW))
        for row, cells in zip(section.rows, rows, strict=True):
            style = "dim" if row.label else STYLES.get(row.state) if row.state != "finished" else None
            texts = [
                f"[bold]{escape(each.text)}[/]{each.mark}" if each.best else escape(each.text) + each.mark
                for each in cells
            ]
            made.add_row(*texts, style=style)
        parts += [made, *map(Text, notes(section))]
        if lacking:
            parts.append(
                Text(f"There is no room here for {', '.join(lacking)}: encdec-report --csv or --html has all.")
            )
    return Group(*parts)


def _beyond(section: Section, header: Sequence[str], rows: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """The places of the columns to leave out, as far as that helps: costs and the paper's figures from the right, then
    options, the least telling first, then scores from the right; the most telling option and the first score stay.
    """
    extras = {*COSTS.values(), *(name for name in header if name.startswith(PAPER))}
    least = []
    for place, name in enumerate(header):
        widest = max(len(each) for each in (name, *(row[place].text + row[place].mark for row in rows)))
        least.append(widest if rows[0][place].number else min(widest, NARROW))
    options = least_telling_first([*zip(*(row.options for row in section.rows if row.runs), strict=True)])
    names = short_names(section.options)
    may_go = [place for place in reversed(range(len(header))) if header[place] in extras]
    may_go += [header.index(names[number]) for number in options[:-1]]
    may_go += [place for place in reversed(range(len(header))) if header[place] in section.scores[1:]]
    return left_out(least, may_go, width)


def markdown(sections: Sequence[Section]) -> str:
    """Tables of GitHub's Markdown."""
    lines: list[str] = []
    for section in sections:
        header, rows = table(section)
        lines += [f"### {title(section)}", "", _line(header)]
        lines += [_line(["---:" if cell.number else "---" for cell in rows[0]])]
        lines += [
            _line(
                [
                    f"**{each.text}**{_escaped(each.mark)}" if each.best else each.text + _escaped(each.mark)
                    for each in row
                ]
            )
            for row in rows
        ]
        lines += ["", *(_escaped(note) + "\n" for note in notes(section))]
    return "\n".join(lines).rstrip() + "\n"


def comma_separated(sections: Sequence[Section]) -> str:
    """A row for each row and section, with whole numbers; values, deviations, ends of intervals and p apart."""
    stream = io.StringIO()
    records = [record for section in sections for record in _records(section)]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for each in records for name in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def as_json(sections: Sequence[Section]) -> str:
    """All numbers, and what exactly was computed."""
    told = [
        {"test": each.title, "examples": each.examples, "signatures": dict(each.signatures), "rows": [*_records(each)]}
        for each in sections
    ]
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def latex(sections: Sequence[Section]) -> str:
    """Tables for the package booktabs."""
    parts = ["% \\usepackage{booktabs}"]
    for section in sections:
        header, rows = table(section)
        columns = "".join("r" if cell.number else "l" for cell in rows[0])
        caption = " ".join([f"{title(section)}.", *notes(section)])
        parts += ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        parts += [" & ".join(map(tex, header)) + " \\\\", "\\midrule"]
        for cells in rows:
            texts = [
                (f"\\textbf{{{tex(each.text)}}}" if each.best else tex(each.text))
                + (f"$^{{{each.mark}}}$" if each.mark else "")
                for each in cells
            ]
            parts.append(" & ".join(texts) + " \\\\")
        parts += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{tex(caption)}}}", "\\end{table}", ""]
    return "\n".join(parts)


def tex(text: str) -> str:
    """A text as LaTeX sets it."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$"}
    signs |= {"<": "$<$", ">": "$>$", **{each: f"\\{each}" for each in "&%$#_{}"}}
    return "".join(signs.get(each, each) for each in text)


FORMATS: dict[str, Callable[[Sequence[Section]], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
    "json": as_json,
}


def title(section: Section) -> str:
    """What a section is about."""
    counted = "" if section.examples is None else f", {section.examples:,} examples"
    return f"Test scores on {section.title}{counted}"


def _records(section: Section) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(section.rows):
        record: dict[str, Any] = {"test": section.title, "system": row.label or _name(row), "state": row.state}
        record |= dict(zip(section.options, row.options, strict=True))
        record |= {"runs": len(row.runs), "folders": " ".join(str(each.run.folder) for each in row.runs)}
        for name, value in {**row.scores, **{COSTS[key]: each for key, each in row.costs.items()}}.items():
            told = {"": value.mean, "/sd": value.deviation, "/low": value.low, "/high": value.high}
            told["/p"] = section.p_values.get((number, name))
            told["/paper"] = section.printed.get((number, name))
            record |= {f"{name}{end}": each for end, each in told.items() if each is not None}
        found.append(record)
    return found


def _described(section: Section, row: Row) -> str:
    from encdec_lightning.reporting.report.paired import describe

    return describe(section, row)


def _name(row: Row) -> str:
    return run_names(row.runs)[0] if len(row.runs) == 1 else f"{len(row.runs)} runs"


def _score(value: Value | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.2f}" + ("" if value.deviation is None else f" ±{value.deviation:.2f}")


def _cost(value: Value | None) -> str:
    if value is None:
        return "-"
    if value.mean >= LONG:
        return f"{value.mean:.2e}"
    return f"{value.mean:,.0f}" if value.mean >= 100 or math.isclose(value.mean % 1, 0) else f"{value.mean:.1f}"


def _mark(p_value: float | None) -> str:
    return next((mark for most, mark in MARKS if p_value is not None and p_value < most), "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(each.split()).replace("|", "\\|") for each in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")
