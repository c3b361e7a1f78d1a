"""Folders in, the sections of a report out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encdec_lightning.errors import UserError, did_you_mean, one_of
from encdec_lightning.reporting.overview import each_once, find_runs, overview
from encdec_lightning.reporting.progress_table import remarks
from encdec_lightning.reporting.report.paired import compare_rows
from encdec_lightning.reporting.report.printed import add_printed
from encdec_lightning.reporting.report.rows import Section, sections
from encdec_lightning.run import Run


def read_report(
    folders: Sequence[Path],
    against: str | None = None,
    sort: str | None = None,
    metrics: Sequence[str] | None = None,
    paper: str | None = None,
) -> tuple[list[Section], list[str]]:
    """The report of the runs in folders, each once; raises `UserError` for folders without runs, and as `report`."""
    runs = {run.folder: run for folder in folders for run in find_runs(folder)}
    return report([*runs.values()], against, sort, metrics, paper)


def report(
    runs: Sequence[Run],
    against: str | None = None,
    sort: str | None = None,
    metrics: Sequence[str] | None = None,
    paper: str | None = None,
) -> tuple[list[Section], list[str]]:
    """The sections of some runs, and sentences on what is missing in them.

    `against` is a row that all others are compared with, `sort` a score, `metrics` the scores that are shown,
    `paper` a task whose figures in the paper stand beside ours, whatever the runs were tested on. Raises `UserError`
    for names that there are not.
    """
    overviews, again = each_once([overview(run) for run in runs])
    found = sections([(each, _metrics(each.run)) for each in overviews])
    said = [*([again] if again else []), *remarks(overviews)]
    known = list(dict.fromkeys(name for section in found for name in section.scores))
    for option, names in (("--metrics", metrics or []), ("--sort", [sort] if sort else [])):
        for name in names:
            if name not in known:
                expected = f"{one_of(known)}{did_you_mean(name, known)}" if known else "no run has a score yet"
                raise UserError(option, name, expected)
    refused: list[UserError] = []
    for section in found:
        if sort is not None:
            _sort(section, sort)
        add_printed(section, paper, ordered=sort is not None)
        if against is not None:
            try:
                said += compare_rows(section, against)
            except UserError as problem:  # it may be a row of another section
                refused.append(problem)
                said.append(f"{section.title}: nothing is compared there. {problem}")
        if metrics is not None:
            section.scores = [name for name in metrics if name in section.scores]
    if refused and len(refused) == len(found):
        raise refused[0]
    return found, said


def _metrics(run: Run) -> dict[str, Any]:
    try:
        return run.metrics()
    except UserError:  # the overview says so
        return {}


def _sort(section: Section, name: str) -> None:
    """The best rows first, those without the score last, baselines before all."""
    sign = 1 if section.better.get(name) == "min" else -1

    def key(number: int) -> tuple[bool, bool, float]:
        row = section.rows[number]
        value = row.scores.get(name)
        return not row.label, value is None, sign * value.mean if value is not None else 0.0

    section.rows = [section.rows[number] for number in sorted(range(len(section.rows)), key=key)]
