"""`encdec-report`: runs side by side, one table for each test set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from encdec_lightning.cli.arguments import Parser, command, import_nothing_of, table_width
from encdec_lightning.errors import UserError

EXAMPLES = 5000
"""Of a test set in the page, by default."""
DESCRIPTION = """Runs side by side, in one table for each test set.

The options that differ are columns, seeds are folded into mean and standard deviation, the best values are bold, and
the costs of the training stand beside them.

It reads the runs' folders alone and changes nothing in them. Runs that have not ended or have failed are rows too."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _report(argv))


def _report(argv: Sequence[str] | None) -> None:
    from encdec_lightning.reporting.report.formats import FORMATS, terminal

    parser = Parser("encdec-report", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run, or a folder with runs at any depth")
    for name in FORMATS:
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=f"write the tables there as {name}")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one page there that needs no network: tables, "
                        "plots, and all examples side by side")  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=int, default=EXAMPLES, help="at most so many examples of a "
                        f"test set in that page, spread evenly over it ({EXAMPLES:,})")  # fmt: skip
    parser.add_argument("--against", metavar="ROW", help="a run's folder, a baseline or an option's value: rows that "
                        "differ from it by more than chance are marked")  # fmt: skip
    parser.add_argument("--sort", metavar="COLUMN", help="a score: the best rows first")
    parser.add_argument("--metrics", metavar="NAMES", help="only these scores, with commas: rouge1,rougeL")
    parser.add_argument("--paper", metavar="TASK", help="the paper's figures for this task beside the rows that are "
                        "its variants (default: where test set and size are the paper's too)")  # fmt: skip
    given = parser.parse_args(argv)
    from rich.console import Console

    from encdec_lightning.files import kind_of, write_text
    from encdec_lightning.reporting.report.folders import read_report
    from encdec_lightning.run import Run

    for folder in (Path.cwd(), *Path.cwd().parents):
        if kind_of(Run(folder).status_file) is not None:
            import_nothing_of(Run(folder))  # a run's config may name metrics by their dotted paths
    files = {name: path for name in [*FORMATS, "html"] if (path := getattr(given, name)) is not None}
    for name, path in files.items():
        if not path.absolute().parent.is_dir():
            raise UserError(f"--{name}", str(path), "there is no such folder to write it into")
    if given.examples < 1:
        raise UserError("--examples", given.examples, "it must be 1 or more")
    if given.html is not None:
        from encdec_lightning.reporting.page.page import check_plots, page

        check_plots(given.html)
    metrics = given.metrics.split(",") if given.metrics else None
    sections, said = read_report([*map(Path, given.folders)], given.against, given.sort, metrics, given.paper)
    for line in said:
        print(line, file=sys.stderr)
    console = Console(width=table_width(), emoji=False)
    console.print(terminal(sections, console.width))
    for name, path in files.items():
        write_text(path, page(sections, said, given.examples) if name == "html" else FORMATS[name](sections))
        print(f"{name} is written to {path}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
