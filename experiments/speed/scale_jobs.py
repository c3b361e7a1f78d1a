"""How whole jobs grow with examples and with ranks: `python experiments/speed/scale_jobs.py`.

Examples: from a file to the first batch, the first time (texts are tokenized) and the second (they are in the cache),
and the memory of the process. Ranks: tokens a second of DDP on the processor, each rank with one thread, so that one
rank uses one core and two use two; the arithmetic is one rank's speed times their number. Results are kept in
scale_jobs.json by processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import setting

from encdec_lightning.training.product_speeds import processor

FILE = setting.HERE / "scale_jobs.json"
EXAMPLES = (1_000, 10_000, 100_000, 1_000_000)
RANKS = (1, 2)
UPDATES = 30

OPEN = """
import resource, sys, time
from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers
task = Task(train=sys.argv[1], validation=sys.argv[2], source="source", target="target", max_source_length=192,
            max_target_length=24)
tokenizers = Tokenizers.from_pretrained(sys.argv[3], sys.argv[3])
began = time.perf_counter()
data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=4000, cache=sys.argv[4]))
data.setup("fit")
next(iter(data.train_dataloader()))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def opened(folder: Path, count: int) -> dict[str, float]:
    """Seconds to the first batch of so many pairs, twice, and the MiB of the second process."""
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    file = folder / f"{count}.jsonl"
    with file.open("w") as stream:
        for number in range(count):  # every pair another one
            pair = json.loads(lines[number % len(lines)])
            stream.write(json.dumps(pair | {"source": f"{number} {pair['source']}"}) + "\n")
    (folder / "validation.jsonl").write_text("\n".join(lines[:100]))
    given = [str(file), str(folder / "validation.jsonl"), str(folder / "checkpoint"), str(folder / f"cache{count}")]
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", OPEN, *given]
        found.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:])
    file.unlink()
    return {"first": float(found[0][0]), "again": float(found[1][0]), "MiB": float(found[1][1])}


def trained(folder: Path, ranks: int) -> float:
    """Tokens a second of all ranks, after the first step."""
    run, checkpoint = folder / f"ranks{ranks}-{time.time()}", folder / "checkpoint"
    options = [
        *(f"folder={run}", "task=jsonl", f"task.train={folder / 'pairs.jsonl'}", "precision=fp32"),
        *(f"task.validation={folder / 'validation.jsonl'}", "task.source=source", "task.target=target"),
        *(f"model.encoder={checkpoint}", f"model.decoder={checkpoint}", "export=false", "data.batch_tokens=2000"),
        *(f"trainer.max_steps={UPDATES}", "training.learning_rate=1e-5", "task.max_source_length=192"),
        *("task.max_target_length=24", "trainer.limit_val_batches=1", "hardware=ddp_cpu", f"trainer.devices={ranks}"),
    ]
    command = [sys.executable, "-m", "encdec_lightning.cli.train", *options]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads((run / "metrics.json").read_text())["train/tokens_per_second"]


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=EXAMPLES[-1], help="examples")
    options = parser.parse_args()
    every = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept = every.setdefault(processor(), {"examples": {}, "ranks": {}})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting.prepare(folder, "minilm")
        (folder / "validation.jsonl").write_text("\n".join((folder / "pairs.jsonl").read_text().splitlines()[:100]))
        for count in (count for count in EXAMPLES if count <= options.most and str(count) not in kept["examples"]):
            kept["examples"][str(count)] = opened(folder, count)
            print(count, kept["examples"][str(count)], flush=True)
            FILE.write_text(json.dumps(every, indent=1) + "\n")
        for _ in range(2):
            for ranks in RANKS:
                kept["ranks"].setdefault(str(ranks), []).append(trained(folder, ranks))
                print(ranks, kept["ranks"][str(ranks)], flush=True)
                FILE.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
