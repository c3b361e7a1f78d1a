"""`encdec-prepare`: download and tokenize what a job needs, before it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from encdec_lightning.cli.arguments import command, parse_overrides, refuse, refuse_nothing
from encdec_lightning.launch.command_line.overrides import compose_draft

DESCRIPTION = (
    "Download the checkpoints and data of a job and tokenize the data, on a login node say; takes encdec-train's"
    " options. The job then needs no network (HF_HUB_OFFLINE=1)."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _prepare(argv))


def _prepare(argv: Sequence[str] | None) -> None:
    arguments = parse_overrides("encdec-prepare", DESCRIPTION, argv, {"--no-model": "data only, no base weights"})
    refuse_nothing(arguments, "data")
    from encdec_lightning.launch.checks.checks import mistakes

    made = compose_draft(*arguments.given)
    refuse(mistakes(made, "data", here=False))  # the job may run on another machine
    from encdec_lightning.launch.prepare import prepare
    from encdec_lightning.reporting.data import show_prepared

    _, splits = prepare(made.config, with_model="--no-model" not in arguments.flags)
    show_prepared(splits)


if __name__ == "__main__":
    sys.exit(main())
