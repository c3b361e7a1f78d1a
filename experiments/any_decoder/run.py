"""Train MiniLM with decoders that never read a source: each arm on each task with each seed, as many updates.

`python experiments/any_decoder/run.py FOLDER --debsum FOLDER_OF_DEBSUM` writes a line a run to results.jsonl beside
this file, and goes on there when it is started again; a run that was stopped goes on as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from encdec_lightning.composition.local_checkpoints import local_or_hub

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
MINILM = local_or_hub("sentence-transformers/all-MiniLM-L6-v2")
SMOLLM2 = local_or_hub("HuggingFaceTB/SmolLM2-135M-Instruct")
COMMON = (
    *("training.learning_rate=1e-4", "training.fresh_learning_rate=1e-3", "training.warmup_steps=20"),
    *("training.label_smoothing=0.1", "trainer.gradient_clip_val=1.0", "model.dropout=0.0", "data.batch_tokens=1000"),
    *("data.evaluation_batch_tokens=2000", "generation=greedy", "task.validation_examples=200"),
    *("task.test_examples=300", "trainer.log_every_n_steps=20"),
)
EVERYWHERE = ("random", "random, gate", "language model at random", "language model alone", "MiniLM2MiniLM")
"""The arms that are tried on each task; the others on debsum alone."""


def arms() -> dict[str, tuple[str, ...]]:
    """The overrides of each arm."""
    pair = (f"model.encoder={MINILM}", f"model.decoder={SMOLLM2}")
    twice = (f"model.encoder={SMOLLM2}", f"model.decoder={SMOLLM2}", "model.encoder_bidirectional=true")
    random, copied = "model.cross_attention_init=random", "model.cross_attention_init=self_attention"
    closed = "model.cross_attention_gate=zero"
    return {
        "random": (*pair, random),
        "MiniLM2MiniLM": (f"model.encoder={MINILM}", f"model.decoder={MINILM}", copied, "training.learning_rate=3e-4"),
        "language model alone": ("model.encoder=null", *pair[1:]),
        "SmolLM2 twice, copied": (*twice, copied, "weights=tied_embeddings"),
        "merged": (*pair, "model.cross_attention_kind=merged"),
        "language model at random": (*pair, random, "model.decoder_init=random"),
        "random, gate": (*pair, random, closed),
        "copied": (*pair, copied),
        "SmolLM2 twice, random": (*twice, random, "weights=tied_embeddings"),
        "SmolLM2 twice, copied, gate": (*twice, copied, closed, "weights=tied_embeddings"),
        "copied, gate": (*pair, copied, closed),
        "random, after the layer": (*pair, random, "model.cross_attention_place=after"),
        "random, every third layer": (*pair, random, "model.cross_attention_every=3"),
        "random, first 6 layers": (*pair, random, "model.decoder_layers=6"),
    }


def tasks(debsum: Path) -> dict[str, tuple[str, ...]]:
    """The overrides of each task."""
    rows = {name: debsum / f"{name}.jsonl.gz" for name in ("train", "validation", "test")}
    return {
        "debsum": ("task=debsum", *(f"task.{name}={path}" for name, path in rows.items())),
        "pydoc_names": ("task=pydoc_names",),
    }


def main() -> None:
    """Run what has no line yet, all arms with one seed before the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--debsum", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=arms(), default=list(arms()), metavar="ARM")
    parser.add_argument("--tasks", nargs="+", choices=("debsum", "pydoc_names"), default=["debsum", "pydoc_names"])
    given = parser.parse_args()
    for seed in range(1, given.seeds + 1):
        for task, of_task in tasks(given.debsum.resolve()).items():
            for arm, of_arm in ((arm, arms()[arm]) for arm in given.arms):
                key = task, arm, seed, given.updates
                if task not in given.tasks or key in finished() or (task != "debsum" and arm not in EVERYWHERE):
                    continue
                print(*key, flush=True)
                name = "-".join(str(each) for each in key).replace(" ", "_").replace(",", "")
                options = (*COMMON, *of_task, *of_arm, f"seed={seed}", f"trainer.max_steps={given.updates}",
                           f"validate_every={given.updates // 2}")  # fmt: skip
                found = trained(given.folder.resolve() / name, options)
                line = dict(zip(("task", "arm", "seed", "updates"), key, strict=True)) | found
                with RESULTS.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")


def finished() -> set[tuple[str, str, int, int]]:
    """Task, arm, seed and updates of the runs that have a line, those of other starts of this script as well."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {(each["task"], each["arm"], each["seed"], each["updates"]) for each in lines}


def trained(folder: Path, options: tuple[str, ...]) -> dict[str, float]:
    """The figures of a run in a folder, which goes on if it is there; its weights are removed at its end (5 GB)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    chosen = (f"run={folder}",) if (folder / "config.yaml").exists() else (f"folder={folder}", *options)
    command = [sys.executable, "-m", "encdec_lightning.cli.train", *chosen]
    with (folder.parent / f"{folder.name}.txt").open("a") as output:
        subprocess.run(command, check=True, stdout=output, stderr=output, env=os.environ)
    metrics = json.loads((folder / "metrics.json").read_text())
    for weights in ("checkpoints", "model"):
        shutil.rmtree(folder / weights, ignore_errors=True)
    kept = ("test/rouge1", "test/rouge2", "test/rougeL", "test/rougeL/low", "test/rougeL/high", "best/val/loss")
    more = ("train/seconds", "train/tokens_per_second", "train/precision", "parameters", "test/seconds")
    return {name: metrics[name] for name in (*kept, *more) if name in metrics}


if __name__ == "__main__":
    main()
