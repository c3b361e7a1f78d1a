"""`page`: a report as one file of HTML that fetches nothing: tables, plots, and examples side by side."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from datetime import date
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from encdec_lightning.errors import UserError
from encdec_lightning.reporting.page.examples import examples
from encdec_lightning.reporting.page.plots import plots
from encdec_lightning.reporting.page.runs import shown_runs
from encdec_lightning.reporting.page.tables import all_runs, counts, runs_table, score_tables
from encdec_lightning.reporting.report.formats import title
from encdec_lightning.reporting.report.rows import Section

SCRIPTS = ("tables.js", "differences.js", "virtual_list.js", "filters.js", "examples.js", "plots.js", "page.js")
"""The page's own code, in the order in which it stands in the page's one script."""


def check_plots(path: Path) -> None:
    """Raise `UserError` where the package that draws the plots is missing; `path` is the page's."""
    if importlib.util.find_spec("plotly") is None:
        expected = "its plots need the package plotly, which is not installed: pip install 'encdec_lightning[report]'"
        raise UserError("--html", str(path), expected)


def page(sections: Sequence[Section], said: Sequence[str], most: int) -> str:
    """The page of a report; `said` are the sentences on what is missing, `most` bounds the examples of a test set."""
    from plotly.offline import get_plotlyjs

    own = "\n".join(_text(name) for name in SCRIPTS)
    library: str = get_plotlyjs()
    filled = Template(_text("page.html")).substitute(
        policy=escape(_policy(own, library)),
        title=escape(f"Report of {counts(all_runs(sections))}"),
        written=escape(f"Written on {date.today():%Y-%m-%d} by encdec_lightning {version('encdec_lightning')}"),
        style=_text("page.css"),
        scores=score_tables(sections),
        runs=runs_table(sections, said),
        choices="".join(f'<option value="{i}">{escape(title(each))}</option>' for i, each in enumerate(sections)),
        data="\n".join(
            f'<script type="text/plain" id="data-{i}">{packed(_data(section, most))}</script>'
            for i, section in enumerate(sections)
        ),
        library=packed(library),
        script=own,
    )
    return filled.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no text


def packed(value: Any) -> str:
    """A value as JSON, compressed, in letters that HTML takes as they are."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode("ascii")


def _data(section: Section, most: int) -> dict[str, Any]:
    """What the page's script knows of a test set."""
    runs = shown_runs(section)
    told = [{"label": each.label, "row": each.row, "state": each.overview.state} for each in runs]
    return {"title": title(section), "runs": told, "plots": plots(section, runs), **examples(runs, most)}


def _policy(*scripts: str) -> str:
    """Nothing is fetched, and no script runs but these: text from data could start none even if it were not escaped."""
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _text(name: str) -> str:
    return files("encdec_lightning.reporting.page").joinpath(name).read_text(encoding="utf-8")
