"""Do our training curves overlap the peer's? `python experiments/speed/curves.py PAIRS.jsonl --results FILE`.

PAIRS.jsonl has real texts, `{"source": ..., "target": ...}` a line. Runs of both alternate over seeds; each seed draws
other cross-attention, another order and other dropout. Finished runs are kept in the results' file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import setting
from rich.console import Console
from rich.progress import track
from rich.table import Table

RUNNERS = {"ours": ["ours.py", "--batch-tokens", "1000"], "peer": ["peer.py", "default", "--losses"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--results", type=Path, default=setting.HERE / "curves.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=50)
    options = parser.parse_args()
    text = options.results.read_text() if options.results.exists() else ""
    done = [json.loads(line) for line in text.splitlines()]
    runs = [(name, seed) for seed in range(options.seeds) for name in RUNNERS]
    runs = [each for each in runs if each not in {(one["name"], one["seed"]) for one in done}]
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts"
        setting.prepare(texts, "minilm")
        (texts / "pairs.jsonl").write_text(options.pairs.read_text())
        for name, seed in track(runs, description="runs"):
            program, *arguments = RUNNERS[name]
            command = [sys.executable, str(setting.HERE / program), str(texts), *arguments, "--seed", str(seed)]
            command += ["--updates", str(options.updates), "--warm-up", "0", "--source", "48", "--target", "16"]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            line = {"name": name, "seed": seed, "losses": json.loads(output.strip().splitlines()[-1])["losses"]}
            done.append(line)
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
    Console(width=100).print(table(done, options.updates // 10))


def table(runs: list[dict[str, object]], window: int) -> Table:
    """Mean losses of successive windows of updates: mean and range over seeds."""
    made = Table(title="Training loss per target token: mean over seeds, and their range")
    for column in ("updates", *RUNNERS, "difference of the means"):
        made.add_column(column, justify="right")
    curves = {name: [each["losses"] for each in runs if each["name"] == name] for name in RUNNERS}
    count = min(len(curve) for each in curves.values() for curve in each)  # type: ignore[arg-type]
    for start in range(0, count - window + 1, window):
        cells, means = [], []
        for name in RUNNERS:
            of = [statistics.mean(curve[start : start + window]) for curve in curves[name]]  # type: ignore[index]
            means.append(statistics.mean(of))
            cells.append(f"{means[-1]:.3f} ({min(of):.3f}-{max(of):.3f})")
        made.add_row(f"{start + 1}-{start + window}", *cells, f"{means[0] - means[1]:+.3f}")
    return made


if __name__ == "__main__":
    setting.quiet()
    main()
