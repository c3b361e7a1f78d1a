"""What the parts of the page call a section's runs, and what each is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encdec_lightning.errors import UserError
from encdec_lightning.reporting.overview import Overview
from encdec_lightning.reporting.report.paired import describe
from encdec_lightning.reporting.report.rows import SEED, Row, Section


@dataclass(frozen=True)
class Shown:
    """A run of a section."""

    overview: Overview
    row: int
    """Its row's number in the section."""
    label: str
    """What sets it apart; no two runs of a section have the same."""

    def metrics(self) -> dict[str, Any]:
        """Its flat metrics; empty where they cannot be read, which the overview says."""
        try:
            return self.overview.run.metrics()
        except UserError:
            return {}


def shown_runs(section: Section) -> list[Shown]:
    """The runs of a section, in the order of its rows."""
    found = []
    for number, row in enumerate(section.rows):
        for each in row.runs:
            label = row_label(section, row)
            if len(row.runs) > 1:
                label += f", seed={each.options.get(SEED)}"
            found.append(Shown(each, number, label))
    labels = [each.label for each in found]
    return [
        each
        if labels.count(each.label) == 1
        else Shown(each.overview, each.row, f"{each.label}, {name}")
        for each, name in zip(found, places([each.overview for each in found]), strict=True)
    ]  # fmt: skip


def row_label(section: Section, row: Row) -> str:
    """A row in words, which is the folder's name where the runs differ in nothing, or its config cannot be read."""
    if row.label or (section.options and row.runs[0].options):
        return describe(section, row)
    return row.runs[0].run.folder.name if len(row.runs) == 1 else "all seeds"


def places(overviews: Sequence[Overview]) -> list[str]:
    """The folders of some runs, from the folder on that all of them lie in."""
    folders = [each.run.folder for each in overviews]
    if not folders:
        return []
    common = os.path.commonpath([folder.parent for folder in folders])
    return [folder.relative_to(common).as_posix() for folder in folders]
