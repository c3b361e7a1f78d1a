"""`encdec-evaluate`: score a run's checkpoint on the test set again, or under other options of generation."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from encdec_lightning.cli.arguments import command, open_run, parse_named

DESCRIPTION = "Generate the test set with a run's checkpoint and score it, from the run's folder alone."
NAMED = {
    "run": "the run's folder",
    "checkpoint": "best, last or a path (default: the run's own choice)",
    "generation.*": "any option of generation; the results then go to evaluations/ in the run's folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _evaluate(argv))


def _evaluate(argv: Sequence[str] | None) -> None:
    given, options, mistakes = parse_named("encdec-evaluate", DESCRIPTION, argv, NAMED, nodes=("generation", "data"))
    run = open_run(given, options, mistakes)
    from encdec_lightning.launch.evaluation import evaluate
    from encdec_lightning.reporting.final_table import show

    show(evaluate(run, given.get("checkpoint"), options))


if __name__ == "__main__":
    sys.exit(main())
