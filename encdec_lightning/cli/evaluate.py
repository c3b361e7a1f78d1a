"""`encdec-evaluate`: score a run's checkpoint on the test set again, or files of predictions from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from encdec_lightning.cli.arguments import command, open_run, parse_named
from encdec_lightning.errors import UserError, UserErrors

DESCRIPTION = """Generate the test set with a run's checkpoint and score it, from the run's folder alone.

Or score and compare files of predictions (.jsonl, .json, or plain text beside references), also from elsewhere."""
LEGEND = (
    "Below a score: how far it is above {}, with the 95% interval of the paired bootstrap, and p of approximate"
    " randomization, corrected for the number of comparisons (Holm)."
)
FILES = ("references", "sources", "metrics")
NAMED = {
    "run": "the run's folder",
    "checkpoint": "best, last or a path (default: the run's own choice)",
    "predictions": "instead of run=: files of predictions, with commas; each is compared with the first",
    "references": "the files of plain text's references, with commas",
    "sources": "the file of plain text's sources, which SARI needs",
    "metrics": "for predictions=, such as [rouge,chrf] (default: rouge)",
    "generation.*": "any option of generation; the results then go to evaluations/ in the run's folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _evaluate(argv))


def _evaluate(argv: Sequence[str] | None) -> None:
    given, options, mistakes = parse_named("encdec-evaluate", DESCRIPTION, argv, NAMED, nodes=("generation", "data"))
    if "predictions" in given:
        _score_files(given, options, mistakes)
        return
    mistakes += [UserError(name, given[name], "it acts with predictions= alone") for name in FILES if name in given]
    run = open_run(given, options, mistakes)
    from encdec_lightning.launch.evaluation import evaluate
    from encdec_lightning.reporting.final_table import show

    show(evaluate(run, given.get("checkpoint"), options))


def _score_files(given: dict[str, str], options: dict[str, str], mistakes: list[UserError]) -> None:
    """Score files of predictions, and compare each with the first."""
    from rich.console import Console

    from encdec_lightning.evaluation.prediction_files import read_predictions
    from encdec_lightning.evaluation.registry import check_metrics
    from encdec_lightning.launch.command_line.reading import read_value
    from encdec_lightning.reporting.systems import systems, systems_table

    others = {name: value for name, value in {**given, **options}.items() if name in ("run", "checkpoint", *options)}
    found = [*mistakes, *(UserError(name, value, "it acts with run= alone") for name, value in others.items())]
    metrics = read_value("task.metrics", given["metrics"]) if "metrics" in given else ["rouge"]
    if not isinstance(metrics, list):
        metrics = [metrics]
    found += check_metrics(metrics)
    references = [Path(each) for each in given.get("references", "").split(",") if each]
    sources = Path(given["sources"]) if "sources" in given else None
    files = {}
    for name in given["predictions"].split(","):
        try:
            files[name] = read_predictions(Path(name), references, sources)
        except UserError as mistake:
            found.append(mistake)
    if found:
        raise UserErrors(found)
    rows = systems(files, metrics)
    console = Console()
    console.print(systems_table(rows))
    for name, reason in {key: why for each in rows for key, why in each.failed.items()}.items():
        console.print(f"{name} is missing: {reason}", highlight=False, markup=False)
    if len(rows) > 1:
        console.print(LEGEND.format(rows[0].name), highlight=False, markup=False)
    for score in rows[0].scores.values():
        console.print(f"  {score.signature}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
