"""`encdec-predict`: texts for sources of your own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from encdec_lightning.cli.arguments import command, open_run, parse_named
from encdec_lightning.cli.environment import start_again
from encdec_lightning.errors import UserError
from encdec_lightning.prediction.partial import check_output

DESCRIPTION = """Generate texts for each source of a file, in its order, with a run's checkpoint. 1024 sources are read,
sorted by length and written at a time; from stdin to stdout fewer where the input pauses.

Files are read as for the run's training: task.source, task.id and task.columns name the columns (a target is not
needed), and task.preprocess is applied, task.test_preprocess is not. No source is left out: where a function drops a
pair, its source stays as it was. Where data.on_bad_row is skip, the text of a row that is no source is empty."""
FORMATS = ("text", "jsonl", "csv", "tsv")
NODES = ("generation", "extraction")
NAMED = {
    "run": "the run's folder",
    "input": "sources: whatever task.train may be (.jsonl, .csv, .tsv, .parquet, compressed, in a .zip, at a URL,\n"
    "                a.en+a.de, hub:...), a text file with a source a line, or - for stdin",
    "format": "of stdin, or of a file whose name does not tell it: text, jsonl, csv or tsv (default: text)",
    "output": "a file that does not exist yet, .jsonl or text (default: -, jsonl to stdout); until it is whole it is\n"
    "                <output>.partial, where the same command continues after an interruption",
    "checkpoint": "best, last or a path (default: the run's own choice)",
    "scores": "true: with each text its log-probability, divided by the penalty of its length where there are beams",
    "generation.*": "any option of generation; generation.num_return_sequences=5 with as many beams gives the 5 best:\n"
    "                in jsonl as `predictions`, in text a line each with the source's number",
    "extraction.*": "any option of extraction, for a run whose model makes extracts; its scores are probabilities",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    if argv is None:
        start_again("predict")
    return command(lambda: _predict(argv))


def _predict(argv: Sequence[str] | None) -> None:
    given, options, mistakes = parse_named(
        "encdec-predict", DESCRIPTION, argv, NAMED, nodes=("generation", "extraction")
    )
    scores, output = given.get("scores", "false"), given.get("output", "-")
    if scores not in ("true", "false"):
        mistakes.append(UserError("scores", scores, "it must be true or false"))
    if given.get("format", "text") not in FORMATS:
        mistakes.append(UserError("format", given["format"], f"it must be one of {', '.join(FORMATS)}"))
    try:
        check_output(output)
    except UserError as mistake:
        mistakes.append(mistake)
    run = open_run(given, options, mistakes)
    from encdec_lightning.prediction.predict_file import predict_file

    checkpoint, kind = given.get("checkpoint"), given.get("format")
    predict_file(run, given["input"], output, checkpoint, options, scores == "true", kind)


if __name__ == "__main__":
    sys.exit(main())
