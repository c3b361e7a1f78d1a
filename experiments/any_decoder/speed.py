"""What a step of training costs, and how many texts a second the engine and `model.generate` write, for each kind.

`python experiments/any_decoder/speed.py` takes MiniLM and SmolLM2 from the cache folder, runs the kinds in turns, five
rounds after one that is not counted, and writes medians to speed.json beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from encdec_lightning import Generation, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.local_checkpoints import local_or_hub
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation.engine import Engine
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.loss import TrainingLoss

HERE = Path(__file__).parent
MINILM = local_or_hub("sentence-transformers/all-MiniLM-L6-v2")
SMOLLM2 = local_or_hub("HuggingFaceTB/SmolLM2-135M-Instruct")
KINDS: dict[str, dict[str, Any]] = {
    "separate": {"encoder": MINILM, "decoder": SMOLLM2},
    "separate, every third layer": {"encoder": MINILM, "decoder": SMOLLM2, "cross_attention_every": 3},
    "merged": {"encoder": MINILM, "decoder": SMOLLM2, "cross_attention_kind": "merged"},
    "SmolLM2 twice": {"encoder": SMOLLM2, "decoder": SMOLLM2, "encoder_bidirectional": True},
    "language model alone": {"encoder": None, "decoder": SMOLLM2},
}
SOURCES, TARGET = (200, 150, 120, 100, 80, 70, 60, 50, 40, 30), 16
"""Tokens of the sources of a batch, and of each target; debsum's are like these."""


def batch(model: ComposedModel) -> Batch:
    """Random tokens."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor(SOURCES)
    ids = torch.randint(5, model.source_config.vocab_size, (len(SOURCES), max(SOURCES)), generator=draw)
    ids[torch.arange(max(SOURCES)) >= lengths[:, None]] = model.source_pad_id
    targets = torch.randint(5, model.config.decoder.vocab_size, (len(SOURCES), TARGET), generator=draw)
    ends = torch.full((len(SOURCES),), TARGET)
    return Batch((), len(SOURCES), ids, lengths, targets, targets, ends, int(ends.sum()), sum(SOURCES))


def works(model: ComposedModel) -> dict[str, Callable[[], None]]:
    """{what is measured: one run of it}."""
    data, low = batch(model), copy.deepcopy(model).eval().bfloat16()
    use_attention(model)
    loss = TrainingLoss(model.train())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss(data).backward()
        optimizer.step()
        optimizer.zero_grad()

    found: dict[str, Callable[[], None]] = {"seconds a step": step}
    texts = [data.source_ids[row, :length] for row, length in enumerate(SOURCES)]
    for beams in (1, 4):
        options = Generation(num_beams=beams, min_length=TARGET, max_length=TARGET)
        engine: Engine[int] = Engine(low, options, TARGET + 1, targets=64)
        arguments = {"input_ids": data.source_ids, "attention_mask": data.source_mask, "num_beams": beams}
        arguments |= {"min_new_tokens": TARGET, "max_new_tokens": TARGET, "do_sample": False}
        found[f"engine, beam {beams}"] = lambda engine=engine: list(engine.stream(enumerate(texts)))
        found[f"generate, beam {beams}"] = lambda arguments=arguments: low.generate(**arguments)
    return found


def main() -> None:
    """Measure, a kind after the other, all works of a kind in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    results = {}
    for name, options in KINDS.items():
        torch.manual_seed(0)
        model = compose(**options)
        for each in (model.config, model.generation_config):
            each.decoder_start_token_id, each.eos_token_id, each.pad_token_id = 1, 2, 2
        tasks = works(model)
        seconds: dict[str, list[float]] = {task: [] for task in tasks}
        for number in range(given.rounds + 1):
            for task, run in tasks.items():
                start = time.perf_counter()
                run()
                if number:
                    seconds[task].append(time.perf_counter() - start)
        medians = {task: statistics.median(each) for task, each in seconds.items()}
        results[name] = {
            task: round(value if task.startswith("seconds") else len(SOURCES) / value, 3)
            for task, value in medians.items()
        } | {"parameters": sum(each.numel() for each in model.parameters())}
        print(name, results[name], flush=True)
        (HERE / "speed.json").write_text(json.dumps({"threads": torch.get_num_threads(), "kinds": results}, indent=1))


if __name__ == "__main__":
    main()
