"""What every runner of the benchmark shares: the same weights, the same examples, the same clock."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from encdec_lightning.composition.local_checkpoints import MINILM, local_or_hub

HERE = Path(__file__).resolve().parent
PAIRS, SOURCE, TARGET = 32, 192, 24  # of the peer's update; at most so many tokens
RATE, CLIP = 1e-4, 1.0
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PRECISIONS = tuple(DTYPES)
BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)


def prepare(folder: Path, size: str) -> None:
    """Write the checkpoint (for `base` random weights of BERT-base's shape) and texts with debsum's lengths."""
    checkpoint = local_or_hub(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    (folder / "checkpoint").mkdir(parents=True)
    if size == "base":
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), **BASE)).save_pretrained(folder / "checkpoint")
        tokenizer.save_pretrained(folder / "checkpoint")
    else:
        for file in Path(checkpoint).iterdir():
            (folder / "checkpoint" / file.name).symlink_to(file.resolve())
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower())
    lengths, chosen = json.loads((HERE / "lengths.json").read_text()), random.Random(0)
    with (folder / "pairs.jsonl").open("w") as file:
        for source, target in zip(lengths["source"], lengths["target"], strict=True):
            # a word is a token; the source gets two special ones and the target its end
            pair = (" ".join(chosen.choices(words, k=count)) for count in (source - 2, target - 1))
            file.write(json.dumps(dict(zip(("source", "target"), pair, strict=True))) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both runners."""
    parser.add_argument("folder", type=Path, help="made by `prepare`")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=int, default=SOURCE, help="at most so many tokens")
    parser.add_argument("--target", type=int, default=TARGET)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--operators", type=Path, help="write the time by operator there")


class Clock:
    """Wall-clock from the end of the last warm-up update to the end of the last update, data included."""

    def __init__(self, warm_up: int, updates: int) -> None:
        self.warm_up, self.updates = warm_up, updates
        self.done = self.source = self.target = self.examples = 0
        self.marks: list[float] = []
        self.losses: list[float] = []
        """Mean loss per target token of each update, where a runner tells it."""

    def count(self, source: int, target: int, examples: int) -> None:
        """A batch that is about to be learnt from: its real tokens."""
        if self.done >= self.warm_up:
            self.source, self.target = self.source + source, self.target + target
            self.examples += examples

    def update(self) -> None:
        """An update is done."""
        self.done += 1
        if self.done == self.warm_up:
            reset_peak_memory()
        if self.done >= self.warm_up:
            self.marks.append(time.perf_counter())

    def report(self, **more: Any) -> None:
        """One line for the driver."""
        seconds = self.marks[-1] - self.marks[0]
        steps = [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]
        figures = {
            "seconds": seconds,
            "tokens": self.source + self.target,
            "source": self.source,
            "target": self.target,
            "examples": self.examples,
            "updates": len(steps),
            "median_step": statistics.median(steps),
            "peak_memory": peak_memory(),
            "losses": self.losses,
        }
        print(json.dumps(figures | more), flush=True)


@contextmanager
def operators(file: Path | None) -> Iterator[None]:
    """Writes milliseconds by operator, the longest first, if a file is given."""
    if file is None:
        yield
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yield
    averages = sorted(profile.key_averages(), key=lambda each: -each.self_cpu_time_total)
    file.write_text(json.dumps([[each.key, each.self_cpu_time_total / 1e3, each.count] for each in averages[:60]]))


def peak_memory() -> int:
    """Bytes since `reset_peak_memory`: the GPU's, else this process's."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory("VmHWM")


def leave_out(part: str) -> None:
    """Train without one of the package's kernels, as torch and transformers do it."""
    from torch.nn import functional

    from encdec_lightning.kernels import fast_functions, products
    from encdec_lightning.kernels.gradients import GradientMemory
    from encdec_lightning.training import loss, module

    if part == "packing":
        loss.TrainingLoss._packing = lambda self, batch: None  # type: ignore[method-assign]
    elif part == "dropout":
        fast_functions.dropout = lambda *given, bits, **more: functional.dropout(*given, **more)  # type: ignore[assignment]
    elif part == "attention":  # and so packing
        module.use_attention = lambda model: None
    elif part == "head":
        loss.has_plain_head = lambda model, head: False
    elif part == "gradients' memory":
        GradientMemory.take = lambda self, weight, dtype=None: torch.empty_like(weight, dtype=dtype)  # type: ignore[method-assign]
    elif part == "products":  # by oneDNN: in fp32 on some processors, in bf16 those that add a bias
        products._suits = lambda given, weight, bias: False
    elif part == "cast":
        made = loss.TrainingLoss.__init__

        def without(self: loss.TrainingLoss, model: Any) -> None:
            made(self, model)
            self._casts_once = False

        loss.TrainingLoss.__init__ = without  # type: ignore[method-assign]


PARTS = ("packing", "dropout", "attention", "head", "cast", "gradients' memory", "products")


def reset_peak_memory() -> None:
    """Forget the peak of resident memory so far; what a process needed to start is no part of a step."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Bytes by /proc/self/status: `VmHWM` peak, `VmRSS` now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def read_pairs(folder: Path) -> Iterator[dict[str, str]]:
    """The texts of `prepare`."""
    with (folder / "pairs.jsonl").open() as file:
        yield from map(json.loads, file)


def quiet() -> None:
    """Before anything is imported that reads these."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
