"""`encdec-train`: compose, check, freeze, train, test, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import yaml

from encdec_lightning.cli.arguments import (
    command,
    opened_run,
    parse_overrides,
    refuse,
    refuse_nothing,
    run_argument,
    table_width,
)
from encdec_lightning.cli.environment import start_again
from encdec_lightning.cluster.queue import check_one_task
from encdec_lightning.errors import JobFailed, UserError
from encdec_lightning.launch.command_line.overrides import compose_config, compose_draft
from encdec_lightning.run import Run

DESCRIPTION = "Warm-start, train, test and export a sequence-to-sequence model; run=<folder> continues a run."


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    if argv is None:
        start_again("train")
    return command(lambda: _train(argv))


def _train(argv: Sequence[str] | None) -> None:
    arguments = parse_overrides("encdec-train", DESCRIPTION, argv)
    refuse_nothing(arguments, "train")
    check_one_task()
    folder, elsewhere = run_argument(arguments)
    if arguments.multirun:
        if folder is not None or arguments.show:
            raise UserError("--multirun", folder or "--cfg", "a sweep takes neither run= nor --cfg")
        from encdec_lightning.launch.sweep import sweep

        points = sweep(arguments.overrides, arguments.config_dirs)
        _show_all([Run.open(each) for each in dict.fromkeys(points.finished)])
        if points.failed:
            count = len(points.failed) + len(points.finished)
            raise JobFailed("\n".join([f"{len(points.failed)} of {count} points failed:", *points.failed]))
        return
    if arguments.show:
        from encdec_lightning.launch.settle import settle

        values = asdict(settle(compose_config(*arguments.given))) if folder is None else opened_run(folder).config()
        yaml.safe_dump(values, sys.stdout, sort_keys=False)
        return
    if folder is None:
        from encdec_lightning.launch.checks.checks import mistakes
        from encdec_lightning.launch.run_folder import make_run
        from encdec_lightning.launch.submit import checked, refused, submit, wants_slurm

        made = compose_draft(*arguments.given)
        by_slurm = wants_slurm(*arguments.given)
        refuse(mistakes(made, "train", here=not by_slurm))
        if by_slurm:
            submit(checked([made.config]))
            return
        refuse(refused(made.config))
        run = make_run(made.config, checked=True)
    else:
        run = opened_run(folder)
        if elsewhere:
            from encdec_lightning.launch.elsewhere import move

            move(run, elsewhere)
    from encdec_lightning.launch.processes import start

    start(run)
    _show(run)


def _show(run: Run) -> None:
    from encdec_lightning.reporting.final_table import show

    show(run)


def _show_all(runs: Sequence[Run]) -> None:
    """The table of one run, or one of all."""
    if len(runs) < 2:
        for run in runs:
            _show(run)
        return
    from rich.console import Console

    from encdec_lightning.reporting.report.folders import report
    from encdec_lightning.reporting.report.formats import terminal

    console = Console(width=table_width(), emoji=False)
    console.print(terminal(report(runs)[0], console.width))
    print(f"The runs are {', '.join(str(run.folder) for run in runs)}.")


if __name__ == "__main__":
    sys.exit(main())
