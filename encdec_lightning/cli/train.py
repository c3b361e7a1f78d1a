"""`encdec-train`: compose, check, freeze, train, test, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import yaml

from encdec_lightning.cli.arguments import command, parse_overrides, run_argument
from encdec_lightning.errors import JobFailed, UserError
from encdec_lightning.launch.overrides import compose_config
from encdec_lightning.run import Run

DESCRIPTION = "Warm-start, train, test and export a sequence-to-sequence model; run=<folder> continues a run."


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _train(argv))


def _train(argv: Sequence[str] | None) -> None:
    arguments = parse_overrides("encdec-train", DESCRIPTION, argv)
    folder = run_argument(arguments.overrides)
    if arguments.multirun:
        if folder is not None or arguments.show:
            raise UserError("--multirun", folder or "--cfg", "a sweep takes neither run= nor --cfg")
        from encdec_lightning.launch.sweep import sweep

        points = sweep(arguments.overrides, arguments.config_dirs)
        for each in points.finished:
            _show(Run.open(each))
        if points.failed:
            count = len(points.failed) + len(points.finished)
            raise JobFailed("\n".join([f"{len(points.failed)} of {count} points failed:", *points.failed]))
        return
    search = [line for line in arguments.overrides if line.lstrip("+").startswith("hparams_search=")]
    if search and search[-1].partition("=")[2] != "null":
        raise UserError("hparams_search", search[-1].partition("=")[2], "a search needs --multirun")
    if folder is None:
        config = compose_config(arguments.overrides, arguments.config_dirs)
        if arguments.show:
            from encdec_lightning.launch.settle import settle

            yaml.safe_dump(asdict(settle(config)), sys.stdout, sort_keys=False)
            return
        from encdec_lightning.launch.prepare import prepare

        run = prepare(config)
    else:
        run = Run.open(folder)
    from encdec_lightning.launch.processes import start

    start(run)
    _show(run)


def _show(run: Run) -> None:
    from encdec_lightning.reporting.table import show

    show(run)


if __name__ == "__main__":
    sys.exit(main())
