"""`encdec-sweep`: all runs in a folder in one table, which stays up to date."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from encdec_lightning.cli.arguments import Parser, command, table_width
from encdec_lightning.errors import UserError

DESCRIPTION = """All runs in a folder in one table: what sets each apart, its state, step, scores, place and time left.

It reads the runs' folders alone, so it works from any machine that sees them, and changes nothing. In a terminal the
table stays up to date until all runs have ended or Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _sweep(argv))


def _sweep(argv: Sequence[str] | None) -> None:
    parser = Parser("encdec-sweep", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder with runs at any depth, such as runs/sharing")
    parser.add_argument("--once", action="store_true", help="print the table once, also in a terminal")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often it is read (default: 5)")
    given = parser.parse_args(argv)
    if not given.every > 0:
        raise UserError("--every", given.every, "it must be a number of seconds above 0")
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from encdec_lightning.reporting.overview import find_runs, overview
    from encdec_lightning.reporting.progress_table import overview_table, remarks

    console = Console(width=table_width(), emoji=False)

    def shown() -> tuple[Group, bool]:
        found = [overview(run) for run in find_runs(Path(given.folder))]
        lines = [Text(line, overflow="fold") for line in remarks(found)]
        return Group(overview_table(found, console.width), *lines), all(
            each.state in ("finished", "failed", "pruned") for each in found
        )

    table, ended = shown()
    if given.once or not console.is_terminal or ended:
        console.print(table)
        return
    with Live(table, console=console, auto_refresh=False) as live:
        while not ended:
            time.sleep(given.every)
            table, ended = shown()
            live.update(table, refresh=True)


if __name__ == "__main__":
    sys.exit(main())
