"""Sources of a file in, texts out, in the same order, a bounded number of them in memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TextIO

import torch
from rich.console import Console
from rich.progress import track

from encdec_lightning.config import Config, convert
from encdec_lightning.data.batch import collate
from encdec_lightning.data.plan import evaluation_plan
from encdec_lightning.data.tokenization import tokenize
from encdec_lightning.errors import UserError
from encdec_lightning.launch.evaluation import load, with_options
from encdec_lightning.launch.job import quiet
from encdec_lightning.records import Pair, Prediction
from encdec_lightning.run import Run
from encdec_lightning.training.module import Seq2SeqModule

CHUNK = 1024  # sources read, sorted by length and written together


def predict_file(run: Run, source: str, output: str, checkpoint: str | None, options: dict[str, str]) -> None:
    """Generate a text for each source, in order; raises `UserError` for a row without one, or an output that exists.

    A file is read to its end before the model is loaded; an output file appears when it is whole.
    """
    quiet()
    config = with_options(convert(run.config()), options, checkpoint)
    _check_output(output)
    if source != "-":
        if not Path(source).is_file():
            raise UserError("input", source, "there is no such file")
        with _opened(source) as lines:
            for _ in _sources(lines, source, config.task.source):
                pass
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = load(run, config, device)
    progress = Console(stderr=True)
    with _opened(source) as lines, _writer(output) as stream:
        pairs = _sources(lines, source, config.task.source)
        for chunk in iter(lambda: list(islice(pairs, CHUNK)), []):
            for each in _predict(module, config, chunk, device, progress):
                stream.write(_line(each, output))
            stream.flush()


def _predict(
    module: Seq2SeqModule, config: Config, pairs: list[Pair], device: torch.device, progress: Console
) -> list[Prediction]:
    """Predictions of a chunk in its order, generated in batches of similar length."""
    task = config.task
    examples = tokenize(pairs, module.tokenizers, task.max_source_length, task.max_target_length)
    budget = config.data.evaluation_batch_tokens or config.data.batch_tokens
    found: dict[str, Prediction] = {}
    for update in track(evaluation_plan(examples.lengths, budget, 1), description="generating", console=progress):
        batch = collate(examples, update.micro_batches[0][0], module.tokenizers, update.target_tokens).to(device)
        found |= {each.id: each for each in module.predict(batch)}
    return [found[pair.id] for pair in pairs]


def _sources(lines: TextIO, name: str, column: str) -> Iterator[Pair]:
    """A pair without a target for each line, its id the line's number; raises `UserError` when there is no line."""
    number = 0
    for number, line in enumerate(lines, start=1):
        text: object = line.strip()
        if name.endswith(".jsonl"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"input line {number}", line[:60].rstrip(), f"it must be JSON ({error.msg})") from None
            text = row.get(column) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            what = f"its column {column!r} must be" if name.endswith(".jsonl") else "it must be"
            raise UserError(f"input line {number}", line[:60].rstrip(), f"{what} a text that is not empty")
        yield Pair(str(number), text, "")
    if number == 0:
        raise UserError("input", name, "it is empty")


def _line(prediction: Prediction, output: str) -> str:
    if output == "-" or output.endswith(".jsonl"):
        row = asdict(prediction)
        del row["reference"]
        return json.dumps(row, ensure_ascii=False) + "\n"
    return prediction.prediction.replace("\n", " ") + "\n"


@contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    """The input as text; raises `UserError` when it is not UTF-8."""
    if name == "-" and isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # in the C locale Python lets any byte through
    try:
        with nullcontext(sys.stdin) if name == "-" else Path(name).open(encoding="utf-8") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError("input", name, "it must be UTF-8") from error


def _check_output(output: str) -> None:
    if output == "-":
        return
    if Path(output).exists():
        raise UserError("output", output, "the file exists already, choose another name")
    if not Path(output).parent.is_dir():
        raise UserError("output", output, "its folder does not exist")


@contextmanager
def _writer(output: str) -> Iterator[TextIO]:
    """Stdout, or a new file, which gets its name at the end."""
    if output == "-":
        yield sys.stdout
        return
    partial = Path(output).with_name(f".{Path(output).name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield stream
        _check_output(output)
        partial.rename(output)
    finally:
        partial.unlink(missing_ok=True)
