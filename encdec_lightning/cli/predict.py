"""`encdec-predict`: texts for sources of your own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from encdec_lightning.cli.arguments import command, parse_named
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run

DESCRIPTION = "Generate a text for each source of a file, with a run's checkpoint."
NAMED = {
    "run": "the run's folder",
    "input": "sources: a .jsonl file (the column the run was trained on), a text file with one a line, or - for stdin",
    "output": "a file that does not exist yet, .jsonl or text (default: -, jsonl to stdout)",
    "checkpoint": "best, last or a path (default: the run's own choice)",
    "generation.*": "any option of generation",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _predict(argv))


def _predict(argv: Sequence[str] | None) -> None:
    given, options = parse_named("encdec-predict", DESCRIPTION, argv, NAMED, nodes=("generation", "data"))
    run = Run.open(given["run"])
    if "input" not in given:
        raise UserError("input", None, "a file with sources must be given, input=<file> or input=-")
    from encdec_lightning.launch.prediction import predict_file

    predict_file(run, given["input"], given.get("output", "-"), given.get("checkpoint"), options)


if __name__ == "__main__":
    sys.exit(main())
