"""`encdec-evaluate`: score a run's checkpoint again, any other model, or files of predictions from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from encdec_lightning.cli.arguments import command, open_run, parse_named, parse_overrides, refuse
from encdec_lightning.cli.environment import start_again
from encdec_lightning.config import unknown_option
from encdec_lightning.errors import UserError, UserErrors, nearest, one_of

DESCRIPTION = """Generate the test set with a run's checkpoint and score it, from the run's folder alone.

Or score and compare files of predictions (.jsonl, .json, or plain text beside references), also from elsewhere.

Or score any sequence-to-sequence or language model that transformers opens on a task, into a run's folder that
encdec-report shows: encdec-evaluate model=<Hub id or folder> task=cnn_dailymail folder=runs/other, with further options
of task, data and generation, and --config-dir, as encdec-train takes them. What generation does not say, the config of
the model says."""
LEGEND = (
    "Below a score: how far it is above {}, with the 95% interval of the paired bootstrap, and p of approximate"
    " randomization, corrected for the number of comparisons (Holm)."
)
FILES = ("references", "sources", "sentence_mark", "metrics")
OTHER = ("prompt", "source_language", "target_language", "dtype")
ACTING = ("task", "data", "generation", "folder")
"""The nodes and options that act where another model is scored."""
ELSEWHERE = f"it does not act with model=, but {', '.join((*ACTING, *OTHER))} do"
NODES = ("generation", "extraction", "data")
NAMED = {
    "run": "the run's folder",
    "checkpoint": "best, last or a path (default: the run's own choice)",
    "predictions": "instead of run=: files of predictions, with commas; each is compared with the first",
    "references": "the files of plain text's references, with commas",
    "sources": "the file of plain text's sources, which SARI needs",
    "sentence_mark": "what stands between the sentences in these files, such as <q> in PreSumm's",
    "metrics": "for predictions=, such as [rouge,chrf] (default: rouge)",
    "model": "instead of run=: a Hub id or the folder of any model that writes texts; task= says on what",
    "prompt": "what model= reads, such as 'summarize: {source}' (default: {source} alone)",
    "source_language": "for model= and a tokenizer of several languages: the source's code, such as de_DE",
    "target_language": "the code of the language that model= is to write, such as en_XX",
    "dtype": "of the weights of model=: float32 (default), bfloat16 or float16",
    "generation.*": "any option of generation; the results then go to evaluations/ in the run's folder",
    "data.*": "how the test set is read, such as data.evaluation_batch_tokens=4000",
    "extraction.*": "the same for a run whose model makes extracts, such as extraction.sentences=2",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    if argv is None:
        start_again("evaluate")
    return command(lambda: _evaluate(argv))


def _evaluate(argv: Sequence[str] | None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if any(line.startswith("model=") for line in argv):
        _score_model(argv)
        return
    given, options, mistakes = parse_named(
        "encdec-evaluate", DESCRIPTION, argv, NAMED, nodes=("generation", "extraction", "data")
    )
    if "predictions" in given:
        _score_files(given, options, mistakes)
        return
    of_files = "it acts with predictions= alone"
    if given.get("run"):
        of_files += f", such as predictions={given['run']}/predictions/test.jsonl"
    mistakes = [_of_another_test(each) if each.field.startswith("task.") else each for each in mistakes]
    mistakes += [UserError(name, given[name], of_files) for name in FILES if name in given]
    mistakes += [UserError(name, given[name], "it acts with model= alone") for name in OTHER if name in given]
    run = open_run(given, options, mistakes)
    from encdec_lightning.launch.evaluation import evaluate
    from encdec_lightning.reporting.final_table import show

    show(evaluate(run, given.get("checkpoint"), options))


def _of_another_test(mistake: UserError) -> UserError:
    """What to do instead of an option of the task, which a run has of its own."""
    expected = (
        "a run keeps its own task; encdec-evaluate predictions=<its predictions/test.jsonl> metrics=... scores by other"
        " metrics; encdec-predict writes the texts of another file, and encdec-evaluate predictions=... references=..."
        " scores them"
    )
    return UserError(mistake.field, mistake.value, expected)


def _score_files(given: dict[str, str], options: dict[str, str], mistakes: list[UserError]) -> None:
    """Score files of predictions, and compare each with the first."""
    from rich.console import Console

    from encdec_lightning.evaluation.prediction_files import read_predictions
    from encdec_lightning.evaluation.registry import check_metrics
    from encdec_lightning.launch.command_line.reading import parts_of, read_value
    from encdec_lightning.reporting.systems import systems, systems_table

    others = {name: value for name, value in {**given, **options}.items() if name in ("run", "checkpoint", *options)}
    found = [*mistakes, *(UserError(name, value, "it acts with run= alone") for name, value in others.items())]
    found += [UserError(name, given[name], "it acts with model= alone") for name in OTHER if name in given]
    metrics = read_value("metrics", given["metrics"]) if "metrics" in given else ["rouge"]
    if not isinstance(metrics, list):
        metrics = [metrics]
    found += [UserError("metrics", each.value, each.expected) for each in check_metrics(metrics)]
    references = [Path(each) for each in parts_of(given.get("references", ""))]
    sources = Path(given["sources"]) if "sources" in given else None
    files, names = {}, parts_of(given["predictions"])
    for name in names:
        try:
            files[name] = read_predictions(
                Path(name), references, sources, given.get("sentence_mark"), alone=len(names) == 1
            )
        except UserError as mistake:
            found.append(mistake)
    if found:
        raise UserErrors(found)
    rows = systems(files, metrics)
    console = Console(emoji=False)
    console.print(systems_table(rows))
    for name, reason in {key: why for each in rows for key, why in each.failed.items()}.items():
        console.print(f"{name} is missing: {reason}", highlight=False, markup=False)
    if len(rows) > 1:
        console.print(LEGEND.format(rows[0].name), highlight=False, markup=False)
    for score in rows[0].scores.values():
        console.print(f"  {score.signature}", highlight=False, markup=False)


def _score_model(argv: Sequence[str]) -> None:
    """Score a model that is not a run's on a task."""
    from encdec_lightning.generation.other_model import DTYPES, Reading
    from encdec_lightning.launch.checks.checks import mistakes
    from encdec_lightning.launch.command_line.draft import set_by
    from encdec_lightning.launch.command_line.overrides import compose_draft
    from encdec_lightning.launch.command_line.presets import choices

    groups = choices()
    names = [line.partition("=")[0] for line in argv]
    given_names = {name for name, line in zip(names, argv, strict=True) if "=" in line and not line.startswith("-")}
    meant = {name for name in given_names if name in NAMED or ("." not in name and nearest(name, NAMED) is not None)}
    own = {name for name in meant if name in NAMED or not (name in groups or unknown_option(name, None) is None)}
    lines = [line for line, name in zip(argv, names, strict=True) if name in own]
    given, _, found = parse_named("encdec-evaluate", DESCRIPTION, lines, NAMED)
    found += [UserError(name, value, ELSEWHERE) for name, value in given.items() if name not in ("model", *OTHER)]
    others = [line for line, name in zip(argv, names, strict=True) if name not in own]
    for name, _, value in (line.lstrip("+~").partition("=") for line in others):
        option = set_by(name.partition("@")[0], groups)
        if option and unknown_option(option, None) is None and option.partition(".")[0] not in ACTING:
            found.append(UserError(name, value, ELSEWHERE))
    made = compose_draft(*parse_overrides("encdec-evaluate", DESCRIPTION, others, {}).given)
    if given.get("dtype", "float32") not in DTYPES:
        found.append(UserError("dtype", given["dtype"], one_of(DTYPES)))
    refuse([*found, *mistakes(made, "texts")])
    from encdec_lightning.prediction.other_model import Job, given_options, score_model
    from encdec_lightning.reporting.final_table import show

    generation = given_options(made.config.generation, made.given)
    texts = {name: given[name] for name in OTHER if name in given and name != "dtype"}
    reading = Reading(max_source_length=made.config.task.max_source_length, **texts)
    job = Job(
        checkpoint=given["model"], config=made.config, generation=generation, reading=reading,
        dtype=given.get("dtype", "float32"),
    )  # fmt: skip
    show(score_model(job, made.config.folder))


if __name__ == "__main__":
    sys.exit(main())
