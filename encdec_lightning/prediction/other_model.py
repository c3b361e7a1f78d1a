"""Any sequence-to-sequence or language model scored on a task's test set, in a run's folder that a report can show."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.config import Config, Node
from encdec_lightning.data.examples.store import hashed, texts_of
from encdec_lightning.data.sources.pairs import PairReader
from encdec_lightning.data.sources.source import find_source
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.registry import score_all
from encdec_lightning.files import new_folder
from encdec_lightning.generation.options import LACKING, Generation
from encdec_lightning.generation.other_model import OtherModel, Reading
from encdec_lightning.launch.job.quiet import quiet
from encdec_lightning.launch.processes import recorded
from encdec_lightning.prediction.lines import windows
from encdec_lightning.prediction.partial import Done, opened_output
from encdec_lightning.progress import Progress
from encdec_lightning.records import Pair, Prediction, plain
from encdec_lightning.reporting.results import write_results
from encdec_lightning.run import Run
from encdec_lightning.training.precision import is_emulated

WINDOW = 512
"""Sources that are sorted by length, and whose texts are then written together: so much is lost by an interruption."""
OF_A_TEST = (
    *("source", "target", "references", "id", "columns", "preprocess", "test_preprocess", "max_source_length"),
    *("max_target_length", "test_examples", "metrics", "baselines"),
)
"""Options of a task that a test depends on, beside its pairs."""
NAMES = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
"""Options of generation that transformers counts in another way than we do, and what it calls ours."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be scored, and on what."""

    checkpoint: str
    """A Hub id or a folder."""
    config: Config
    """Its `task` is the task; `data` says how rows are read and how many tokens a batch may have."""
    generation: dict[str, Any]
    """The options of generation that were given; all others are the model's own."""
    reading: Reading
    dtype: str

    def frozen(self) -> Node:
        """The plain values that the run keeps."""
        task = self.config.task
        reads = {name: value for name, value in asdict(self.reading).items() if name != "max_source_length"}
        return {
            "model": {"checkpoint": self.checkpoint, **reads, "dtype": self.dtype},
            "task": {"test": task.path("test"), **{name: getattr(task, name) for name in OF_A_TEST}},
            "generation": self.generation,
            "data": {"on_bad_row": self.config.data.on_bad_row},
        }

    def identity(self) -> str:
        """A hash of all that changes the results."""
        return hashlib.sha256(json.dumps(self.frozen(), sort_keys=True).encode()).hexdigest()


def given_options(generation: Generation, given: frozenset[str]) -> dict[str, Any]:
    """The options of generation that a command names; all that transformers takes where it chooses a preset.

    Raises `UserError` for those that the model's own generate does not have.
    """
    for name in generation.beyond_transformers():
        expected = "the model's own generate does not know it"
        raise UserError(f"generation.{name}", getattr(generation, name), expected)
    named, default = {each.partition(".")[2] for each in given if each.startswith("generation.")}, Generation()
    taken = {"max_new_tokens", *generation.arguments(1)} if "generation" in given else set()
    found = {
        each.name: value
        for each in fields(Generation)
        if (value := getattr(generation, each.name)) != getattr(default, each.name)
        or each.name in named
        or (NAMES.get(each.name, each.name) in taken and value is not None)
    }
    if found.get("num_return_sequences", 1) > 1:
        raise UserError("generation.num_return_sequences", found["num_return_sequences"], "one text is scored, give 1")
    return {name: value for name, value in found.items() if name not in (*LACKING, "num_return_sequences")}


def score_model(job: Job, folder: str | None) -> Run:
    """Write a text for each test pair, and score them; the run's folder is `folder`, else one below `runs/`.

    Texts are on the disk before they are scored, and as they are made: the same command with the same folder goes on
    where it was interrupted, and does nothing but show a finished run. Raises `UserError`.
    """
    quiet()
    name = Path(job.checkpoint).name or "model"
    if folder is None:
        folder = str(new_folder(Path("runs", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}")))
    run = Run.create(folder, job.frozen(), job.identity())
    with run.lock():
        if run.status().get("state") == "finished":
            return run
        run.set_state("running")
        with recorded(run):
            predictions = _predicted(job, run)
            task = job.config.task
            scores, failed = score_all(predictions, task.scored_with)
            write_results(run, predictions, scores, task.scored_with, task.baselines or [], failed)
        run.set_state("finished")
    return run


def _predicted(job: Job, run: Run) -> list[Prediction]:
    """The predictions, those of an earlier start included; what is known of test set and model goes to the metrics."""
    task, data = job.config.task, job.config.data
    reader = PairReader(task, "test", (lambda row, problem: None) if data.on_bad_row == "skip" else None)
    pairs = [pair for _, pair in reader.read(find_source(task, "test", cache_folder(data.cache)).rows)]
    if not pairs:
        raise reader.no_example(task.path("test"))
    ids = Counter(pair.id for pair in pairs)
    twice = next((name for name, count in ids.items() if count > 1), None)
    if twice is not None:
        raise UserError("task.test", task.path("test"), f"two examples have the id {twice}")
    digest = hashlib.sha256(b"".join(hashed(texts_of(pair)) for pair in pairs)).hexdigest()
    path = run.folder / "predictions" / "test.jsonl"
    told = {"data/test_fingerprint": digest, "data/test_skipped": reader.skipped}
    told |= {"data/test_dropped_by_preprocessing": reader.dropped}
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _write_texts(job, pairs, told, run)
    found = {each.id: each for each in run.predictions()}
    if found.keys() != ids.keys():
        raise UserError("folder", str(run.folder), "its predictions are not of this test set, choose another folder")
    return [found[pair.id] for pair in pairs]


def _write_texts(job: Job, pairs: Sequence[Pair], told: dict[str, Any], run: Run) -> None:
    """Write the predictions of all pairs into the run's file, and what is `told` of them into its metrics."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = {"model": job.frozen(), "test": told["data/test_fingerprint"]}
    with opened_output(str(run.folder / "predictions" / "test.jsonl"), made) as output:
        if job.dtype == "bfloat16" and is_emulated("bf16-true", device):
            print(
                f"dtype is {job.dtype}: this processor has no instructions for it, and would be many times faster with "
                "dtype=float32.",
                file=sys.stderr,
            )
        model = OtherModel.open(job.checkpoint, job.reading, device, job.dtype)
        run.write_metrics({"parameters": model.parameters, "version/transformers": transformers.__version__, **told})
        arguments = model.arguments(
            {NAMES.get(name, name): value for name, value in job.generation.items()}, job.config.task.max_target_length
        )
        budget = job.config.data.evaluation_batch_tokens or job.config.data.batch_tokens
        done = output.done.sources
        with Progress("generating", len(pairs), "texts", begin=done) as progress:
            for window in windows(pairs[done:], WINDOW):
                torch.manual_seed(done)  # of draws, so that a start that goes on writes what one alone does
                texts = {}
                for key, text in model.texts([(pair.id, pair.source) for pair in window], arguments, budget):
                    texts[key] = text
                    progress.advance(1)
                done += len(window)
                lines = [_line(pair, texts[pair.id]) for pair in window]
                output.write("".join(lines), Done(done))


def _line(pair: Pair, text: str) -> str:
    made = Prediction(pair.id, pair.source, pair.target, text, pair.other_targets)
    return json.dumps(plain(made), ensure_ascii=False) + "\n"
