"""How far is encdec-check's memory from that of a real fit? `python experiments/memory/measure.py`; processes on CPU.

A fit of a few full micro-batches of the longest pairs, in a process of its own for each setting. Measured is the most
memory that torch's allocator held beyond what it held before the fit, by the profiler's record of every allocation.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import tiny

from encdec_lightning import Composition, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.reporting.memory import Setting, memory_per_device, states_of

WIDTH, LAYERS, TOKENS, LENGTHS = 512, 6, 1800, (48, 12)
SETTINGS = [
    ("tied", "auto", "32-true", False),
    ("tied", "auto", "32-true", True),
    ("tied", "auto", "bf16-mixed", False),
    ("tied", "ddp", "32-true", False),
    ("tied", "fsdp2", "32-true", False),
    ("untied", "auto", "32-true", False),
    ("untied", "fsdp2", "32-true", False),
]


def fit(folder: Path, weights: str, strategy: str, precision: str, checkpointing: bool) -> tuple[int, int]:
    """(estimated, measured) bytes of this process."""
    checkpoint, train = str(folder / "bert"), str(folder / "train.jsonl")
    task = Task(train=train, validation=train, source="document", target="summary", id="key",
                max_source_length=LENGTHS[0], max_target_length=LENGTHS[1])  # fmt: skip
    tokenizers = Tokenizers.from_pretrained(checkpoint)
    training = Training(schedule="constant", gradient_checkpointing=checkpointing)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    setting = Setting(precision=precision, states=states_of(functools.partial(torch.optim.AdamW, fused=True)),
                      batch_tokens=TOKENS, lengths=LENGTHS, training=training)  # fmt: skip
    composition = Composition(encoder=checkpoint, decoder=checkpoint, weights=weights)
    estimates = memory_per_device(skeleton(composition), setting, 2)
    estimate = next(each for name, each in estimates.items() if name.lower().startswith(strategy.replace("auto", "1")))
    module = Seq2SeqModule(compose(checkpoint, checkpoint, weights, tokenizers=tokenizers), tokenizers, task, training)
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=TOKENS))
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, precision=precision, max_steps=4, limit_val_batches=0,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.fit(module, data)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    before = 0 if strategy == "fsdp2" else estimate.weights  # made before the profiler; sharded ones are made anew
    return estimate.total, most + before


def run(folder: Path, number: int) -> dict[str, Any]:
    """A setting in processes of its own."""
    ranks = 1 if SETTINGS[number][1] == "auto" else 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "GROUP_RANK": "0",
              "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "memory", "OMP_NUM_THREADS": "1"}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(number)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    lines = [process.communicate()[0].strip().splitlines()[-1] for process in processes]
    estimated, measured = json.loads(lines[0])
    names = ("weights", "strategy", "precision", "checkpointing")
    sizes = {"estimated_mib": round(estimated / 2**20, 1), "measured_mib": round(measured / 2**20, 1)}
    return {**dict(zip(names, SETTINGS[number], strict=True)), **sizes, "ratio": round(estimated / measured, 2)}


def main() -> None:
    """Every setting, a line each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.checkpoint(folder / "bert", "bert", width=WIDTH, layers=LAYERS)
        long = "graph node " * 40
        rows = [{"key": str(each), "document": f"{each % 7} {long}", "summary": long} for each in range(120)]
        tiny.write_rows(folder / "train.jsonl", rows)
        for number in range(len(SETTINGS)):
            print(json.dumps(run(folder, number)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(fit(Path(sys.argv[1]), *SETTINGS[int(sys.argv[2])])))
