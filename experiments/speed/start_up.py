"""Seconds that commands take before they work: `python experiments/speed/start_up.py [--rounds 3]`.

Imports alone, commands that answer, a training of three steps of a tiny model, and a sweep of four such trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoTokenizer, BertConfig, BertModel

from encdec_lightning.composition.local_checkpoints import MINILM, local_or_hub
from encdec_lightning.training.product_speeds import processor

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
JOB = (
    "model.encoder=checkpoint", "model.decoder=checkpoint", "model.weights=tied", "task.train=pairs.jsonl",
    "task.validation=pairs.jsonl", "task.test=pairs.jsonl", "task.max_source_length=24", "task.max_target_length=12",
    "trainer.max_steps=3", "generation.num_beams=1", "data.batch_tokens=500",
)  # fmt: skip


def prepare(folder: Path) -> None:
    """A tiny BERT with random weights, MiniLM's tokenizer, and 40 pairs."""
    tokenizer = AutoTokenizer.from_pretrained(local_or_hub(MINILM))
    BertModel(BertConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for number in range(40):
            source, target = words[10 * number : 10 * number + 10], words[10 * number : 10 * number + 4]
            file.write(json.dumps({"source": " ".join(source), "target": " ".join(target)}) + "\n")


def commands() -> dict[str, list[str]]:
    """What is timed, by its name."""
    here = Path(sys.executable).parent

    def program(name: str, *arguments: str) -> list[str]:
        return [str(here / f"encdec-{name}"), *arguments]

    def imports(name: str) -> list[str]:
        return [sys.executable, "-c", f"import {name}"]

    return {
        "import torch": imports("torch"),
        "import transformers.modeling_utils": imports("transformers.modeling_utils"),
        "import lightning, transformers.modeling_utils": imports("lightning, transformers.modeling_utils"),
        "encdec-train --help": program("train", "--help"),
        "encdec-train ... --cfg": program("train", *JOB, "--cfg"),
        "encdec-check ...": program("check", *JOB),
        "encdec-train ..., three steps": program("train", *JOB, "folder=runs/{round}"),
        "encdec-train --multirun, four of these": program("train", "-m", *JOB, "seed=1,2,3,4", "name=sweep{round}"),
        "encdec-report of five runs": program("report", "runs/{round}", "runs/sweep{round}"),
        "encdec-predict of one source": program(
            "predict", "run=runs/{round}", "input=source.txt", "output=texts{round}.txt"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in commands()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        (folder / "source.txt").write_text("one source\n", encoding="utf-8")
        for number in track(range(options.rounds + 1), description="rounds"):
            for each, command in commands().items():
                filled = [part.replace("{round}", str(number)) for part in command]
                started = time.perf_counter()
                subprocess.run(filled, cwd=folder, check=True, capture_output=True, env=os.environ | {"COLUMNS": "200"})
                if number:  # the first one fills caches
                    seconds[each].append(time.perf_counter() - started)
    table = Table("command", title=f"{processor()}, {options.rounds} rounds")
    for column in ("median, s", "least", "most"):
        table.add_column(column, justify="right")
    for each, found in seconds.items():
        table.add_row(each, *(f"{value:.2f}" for value in (statistics.median(found), min(found), max(found))))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
