"""Sources of a file in, texts out, in the same order, a bounded number of them in memory."""

from __future__ import annotations

import hashlib
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError
from encdec_lightning.generation.memory import ElasticStreamer
from encdec_lightning.generation.search import Hypothesis
from encdec_lightning.kernels.int8_linear import weight_levels
from encdec_lightning.launch.command_line.overrides import with_options
from encdec_lightning.launch.evaluation import load, with_precision_of_texts
from encdec_lightning.launch.job.quiet import quiet
from encdec_lightning.prediction.extracts import ExtractPredictor
from encdec_lightning.prediction.inputs import InputReader, find_input, input_rows, is_pipe
from encdec_lightning.prediction.lines import Answer, Live, standard_input, windows, written
from encdec_lightning.prediction.partial import Done, Output, check_output, opened_output
from encdec_lightning.records import Pair
from encdec_lightning.rules import convert
from encdec_lightning.run import Run
from encdec_lightning.training.extractive_module import ExtractiveModule
from encdec_lightning.training.module import Seq2SeqModule
from encdec_lightning.training.precision import autocast

CHUNK = 1024  # sources read, sorted by length and written together


def predict_file(
    run: Run, source: str, output: str, checkpoint: str | None, options: dict[str, str], scores: bool = False,
    given_format: str | None = None,
) -> None:  # fmt: skip
    """Generate texts for each source, in order; raises `UserError` for a row without one, or an output that exists.

    The input is read as the run's training pairs were. A file is read to its end before the model is loaded; an output
    file appears when it is whole. Until then a partial file holds what is done, and the same command continues there.
    """
    quiet()
    config = with_options(convert(run.config()), options, checkpoint)
    check_output(output)
    total = _count(source, config, given_format)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = with_precision_of_texts(config, device.type)
    with opened_output(output, _job(run, config, scores)) as sink:
        predictor = _predictor(load(run, config, device), config, scores, sink.done.rows)
        reader = InputReader(config.task, config.data.on_bad_row == "skip")
        live = Live.of_standard_input() if (source, output) == ("-", "-") and given_format != "csv" else None
        pairs = _sources(reader, source, config, given_format, live)
        digest = _skip(pairs, sink.done, source)
        found = windows(pairs, CHUNK) if live is None else windows(pairs, CHUNK, live.paused)
        _predict(predictor, found, digest, output, sink, total)
    _say_what_was_odd(reader)


def _predictor(
    module: Seq2SeqModule | ExtractiveModule, config: Config, scores: bool, targets: int | None
) -> Predictor | ExtractPredictor:
    if isinstance(module, ExtractiveModule):
        return ExtractPredictor(module, config, scores)
    return Predictor(module, config, scores, targets)


def _predict(
    predictor: Predictor | ExtractPredictor,
    found: Iterator[list[Pair]],
    digest: Any,
    output: str,
    sink: Output,
    total: int | None,
) -> None:
    """Write the lines of the windows of sources that are not done yet; `digest` is the hash of those that are."""
    text, console = output != "-" and not output.endswith(".jsonl"), Console(stderr=True, emoji=False)
    begun, first = time.perf_counter(), sink.done.sources
    number = first
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]} a second")
    bar = Progress(
        TextColumn("{task.description}"), *columns, console=console, redirect_stdout=False, redirect_stderr=False,
        disable=output == "-" and sys.stdout.isatty(),
    )  # fmt: skip
    task = bar.add_task("generating", total=total, completed=number, speed="0.0")

    def advance() -> None:
        nonlocal number
        number += 1
        bar.update(task, advance=1, speed=f"{(number - first) / (time.perf_counter() - begun):.1f}")

    try:
        for window in found:
            bar.start()
            answers = predictor(window, number + 1, advance)
            for pair in window:
                digest.update(_hashed(pair))
            lines = [
                written(pair, each, text, predictor.scores, predictor.several)
                for pair, each in zip(window, answers, strict=True)
            ]
            sink.write("".join(lines), Done(number, digest.hexdigest(), predictor.targets))
    finally:
        if bar.live.is_started:  # else there was nothing to show
            bar.stop()
    seconds = time.perf_counter() - begun
    before = f", after {first} of an earlier start" if first else ""
    console.print(f"{number - first} sources in {seconds:.1f} s, {(number - first) / seconds:.1f} a second{before}")


class Predictor:
    """Texts for windows of sources, by one engine for as long as memory holds its targets."""

    def __init__(self, module: Seq2SeqModule, config: Config, scores: bool, targets: int | None = None) -> None:
        """With `targets` it works as one that has been at work with so many, as far as memory allows."""
        self.scores, self._config, self._warm = scores, config, targets is None
        self.several = config.generation.num_return_sequences > 1
        self._tokenizers = module.tokenizers
        self._device = next(module.model.parameters()).device
        self._generator = torch.Generator(self._device)
        task = config.task
        try:
            with self._precision():
                self._start: ElasticStreamer[int] = ElasticStreamer(
                    module.model, config.generation, longest_source=task.max_source_length,
                    max_target_length=task.max_target_length, most=targets, generator=self._generator, scores=scores,
                )  # fmt: skip
        except UserError as error:
            raise error.inside("generation") from None

    @property
    def targets(self) -> int:
        """Targets under way."""
        return self._start.targets

    def __call__(self, pairs: list[Pair], first: int, advance: Callable[[], None]) -> list[list[Answer]]:
        """The texts of each source and their scores, best first; one that is empty has an empty text.

        What is drawn depends on the seed, on the window, and on the number of its first source in the input.
        """
        there = [number for number, pair in enumerate(pairs) if pair.source]
        ids = self._tokenizers.encode_sources([pairs[at].source for at in there], self._config.task.max_source_length)
        sources = [(at, torch.tensor(each)) for at, each in zip(there, ids, strict=True)]
        waiting = sorted(sources, key=lambda source: -len(source[1]))
        if not self._warm:  # an engine's first steps differ from later ones in the last bits
            self._run(waiting[:1], lambda: None)
            self._warm = True
        self._generator.manual_seed((self._config.seed << 32) + first & (1 << 63) - 1)
        found = self._run(waiting, advance)
        texts = iter(self._tokenizers.decode([each.tokens for key in there for each in found[key]]))
        answers = {key: [Answer(next(texts), each.score) for each in found[key]] for key in there}
        for _ in range(len(pairs) - len(there)):
            advance()
        return [answers.get(number, [Answer("", 0.0)]) for number in range(len(pairs))]

    def _run(self, waiting: list[tuple[int, torch.Tensor]], advance: Callable[[], None]) -> dict[int, list[Hypothesis]]:
        found = {}
        with self._precision():
            for key, hypotheses in self._start(waiting):
                found[key] = hypotheses
                advance()
        return found

    def _precision(self) -> torch.autocast:
        """The run's, as in its test."""
        return autocast(self._config.trainer.get("precision"), self._device)


def _sources(
    reader: InputReader, source: str, config: Config, given_format: str | None, live: Live | None = None
) -> Iterator[Pair]:
    """The sources of the input; raises `UserError` where there is none."""
    if source == "-":
        rows = input_rows(standard_input() if live is None else live, config.task, given_format)
    else:
        rows = find_input(source, config.task, cache_folder(config.data.cache), given_format)
    number = 0
    for number, pair in enumerate(reader.read(rows), start=1):  # noqa: B007
        yield pair
    if number == 0:
        raise UserError("input", source, "it is empty")


def _count(source: str, config: Config, given_format: str | None) -> int | None:
    """How many sources there are, all of them sound; none for what can be read only once."""
    if source == "-" or is_pipe(source):
        return None
    reader = InputReader(config.task, config.data.on_bad_row == "skip")
    return sum(1 for _ in _sources(reader, source, config, given_format))


def _say_what_was_odd(reader: InputReader) -> None:
    """A line for sources that training would have left out."""
    if reader.kept:
        print(f"{reader.kept} sources that task.preprocess drops have a text all the same", file=sys.stderr)
    if reader.skipped:
        print(f"{reader.skipped} rows are no sources, their texts are empty: {reader.first_problem}", file=sys.stderr)


def _job(run: Run, config: Config, scores: bool) -> dict[str, Any]:
    """All that decides what is written for a source, its text excepted."""
    node = "extraction" if config.model.scores_sentences else "generation"
    return {
        "checkpoint": _content(run.checkpoint(config.checkpoint)),
        **{f"{node}.{name}": value for name, value in asdict(getattr(config, node)).items()},
        "task.max_source_length": config.task.max_source_length,
        "task.max_target_length": config.task.max_target_length,
        "seed": config.seed,
        "precision": str(config.trainer.get("precision")),
        **({"weight_levels": weight_levels()} if config.generation.quantize else {}),
        "scores": scores,
        "window": CHUNK,
    }


def _content(checkpoint: Path) -> str:
    """A hash of a checkpoint by the checksums that its files hold of their parts."""
    parts: list[object] = []
    for path in sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]:
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [(each.filename.partition("/")[2], each.CRC, each.file_size) for each in archive.infolist()]
        elif path.is_file():
            parts.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _skip(pairs: Iterator[Pair], done: Done, source: str) -> Any:
    """The hash of the sources that are done, after passing over them; raises `UserError` if they are others."""
    digest, passed = hashlib.sha256(), 0
    for pair in islice(pairs, done.sources):
        digest.update(_hashed(pair))
        passed += 1
    if done.sources and (passed, digest.hexdigest()) != (done.sources, done.digest):
        expected = f"its first {done.sources} sources are not those of the partial file, give the same or delete that"
        raise UserError("input", source, expected)
    return digest


def _hashed(pair: Pair) -> bytes:
    return hashlib.sha256(f"{pair.id}\0{pair.source}".encode()).digest()
