"""Figures of the data room: `python experiments/data/measure.py tokenization|padding|scale --help`.

Each figure comes from a process of its own; tokenization alternates with calling the tokenizers directly.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers
from encdec_lightning.composition.local_checkpoints import MINILM, local_or_hub
from encdec_lightning.data.batches.plan import Plan

DIRECT_BATCH = 1000  # texts in a call; larger and smaller ones were slower


def task_of(options: argparse.Namespace) -> Task:
    """The training file, or the embedded data set, that is measured."""
    return Task(train=options.train, validation=options.train, source=options.source, target=options.target)


def peak_memory() -> float:
    """The most memory this process has had resident, in GiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def process_seconds() -> float:
    """How long this process has been running, its imports included."""
    begun = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - begun


def tokenization(options: argparse.Namespace) -> None:
    """Pairs per second into the cache, reading and writing included, beside direct batched calls on texts in memory."""
    task, tokenizers = task_of(options), Tokenizers.from_pretrained(local_or_hub(MINILM))
    examples = Seq2SeqDataModule(task, tokenizers).examples("train")
    pairs = [examples.pair(number) for number in range(len(examples.lengths))]
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]

    def direct() -> None:
        for start in range(0, len(pairs), DIRECT_BATCH):
            part = slice(start, start + DIRECT_BATCH)
            cut = {"truncation": True, "return_attention_mask": False}
            tokenizers.source(sources[part], max_length=512, **cut)
            tokenizers.target(targets[part], max_length=128, add_special_tokens=False, **cut)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:
            for name in ("checkpoints", "pydoc"):
                existing = Path(options.cache or Path.home() / ".cache" / "encdec_lightning") / name
                (Path(cache) / name).symlink_to(existing)
            Seq2SeqDataModule(task, tokenizers, Loading(cache=cache)).examples("train")

    seconds: dict[str, list[float]] = {"direct": [], "ours": []}
    for number in range(options.repeats + 1):
        for name, work in (("direct", direct), ("ours", ours)):
            started = time.perf_counter()
            work()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    rates = {name: len(pairs) / statistics.median(each) for name, each in seconds.items()}
    ratios = [one / other for one, other in zip(seconds["direct"], seconds["ours"], strict=True)]
    show(pairs=len(pairs), **{f"{name} pairs/s": round(rate) for name, rate in rates.items()},
         ratio=round(statistics.median(ratios), 3), ratios=f"{min(ratios):.3f}-{max(ratios):.3f}")  # fmt: skip


def padding(options: argparse.Namespace) -> None:
    """Padding, waiting of ranks for the longest one, and micro-batches, over an epoch of several plans."""
    tokenizers = Tokenizers.from_pretrained(local_or_hub(MINILM))
    for loading in ({}, {"update_examples": 256}, {"update_examples": 32}, {"update_target_tokens": 3000}):
        for world_size in (1, 8):
            data = Seq2SeqDataModule(
                task_of(options), tokenizers, Loading(batch_tokens=options.batch_tokens, **loading)
            )
            data.trainer = SimpleNamespace(global_rank=0, world_size=world_size)  # type: ignore[assignment]
            lengths = data.examples("train").lengths
            padded, busiest, count = cost(data._training_plan(1), lengths)
            show(plan=loading or "full batches", ranks=world_size, padding=f"{1 - lengths.sum() / padded:.1%}",
                 waiting=f"{1 - padded / (busiest * world_size):.1%}", micro_batches=data.micro_batches,
                 tokens_in_a_batch=round(padded / count))  # fmt: skip


def cost(plan: Plan, lengths: np.ndarray) -> tuple[int, int, int]:
    """Padded tokens of an epoch, those of the busiest rank of every step, and the number of batches."""
    padded = busiest = count = 0
    for update in plan:
        for row in update.micro_batches:
            sizes = [len(batch) * int(lengths[batch].max(axis=0).sum()) for batch in row if len(batch)]
            padded += sum(sizes)
            busiest += max(sizes, default=0)
            count += len(sizes)
    return padded, busiest, count


def scale(options: argparse.Namespace) -> None:
    """Synthetic pairs written, tokenized and iterated, each in a process of its own, with its time and its memory."""
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{options.pairs}.jsonl"
    if not file.exists():
        temporary = file.with_suffix(".partial")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(synthetic(options.pairs))
        temporary.rename(file)
    for step in ("tokenize", "iterate"):
        command = [sys.executable, __file__, "step", step, "--train", str(file), "--folder", str(folder)]
        subprocess.run(command, check=True)


def synthetic(count: int) -> Iterator[str]:
    """Lines of jsonl: a source of 5 to 35 English-like words, a target of 2 to 10."""
    draw = random.Random(0)
    words = [line.strip() for line in Path(local_or_hub(MINILM), "vocab.txt").read_text(encoding="utf-8").splitlines()]
    words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 2]
    for _ in range(count):
        start = draw.randrange(len(words) - 40)
        source = words[start : start + draw.randint(5, 35)]
        yield json.dumps({"source": " ".join(source), "target": " ".join(source[: draw.randint(2, 10)])}) + "\n"


def step(options: argparse.Namespace) -> None:
    """One step of `scale`."""
    tokenizers = Tokenizers.from_pretrained(local_or_hub(MINILM))
    loading = Loading(cache=options.folder, update_examples=256)
    data = Seq2SeqDataModule(task_of(options), tokenizers, loading)
    count = len(data.examples("train").lengths)
    if options.what == "iterate":
        batches = iter(data.train_dataloader())
        examples = next(batches).examples
        first = process_seconds()
        count = examples + sum(batch.examples for batch in batches)
        show(step="iterate", pairs=count, seconds_to_the_first_batch=round(first, 1), **rates(count, first))
    else:
        show(step="tokenize", pairs=count, **rates(count, 0.0))


def rates(pairs: int, begun: float) -> dict[str, object]:
    """Time, speed and memory so far, without the process's first seconds."""
    seconds = process_seconds() - begun
    return {"seconds": round(seconds), "pairs_per_second": round(pairs / seconds), "peak_GiB": round(peak_memory(), 2)}


def show(**figures: object) -> None:
    """A line of figures."""
    print(" | ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()), flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for work in (tokenization, padding, scale, step):
        command = commands.add_parser(work.__name__, help=work.__doc__)
        command.set_defaults(work=work)
        if work is step:
            command.add_argument("what", choices=("tokenize", "iterate"))
        command.add_argument("--train", default="pydoc", help="a file of pairs, or an embedded data set")
        command.add_argument("--source", default="source")
        command.add_argument("--target", default="target")
        command.add_argument("--repeats", type=int, default=7)
        command.add_argument("--batch-tokens", type=int, default=8000)
        command.add_argument("--pairs", type=int, default=10_000_000)
        command.add_argument("--folder", default="/tmp/encdec_scale", help="where scale writes its files")
        command.add_argument("--cache", help="the cache that holds pydoc, if it is not the user's own")
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()
