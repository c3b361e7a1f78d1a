"""What each kernel gives: ours without one of them, alternating; `python experiments/speed/without.py`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import setting
from compare import OURS, faster
from rich.console import Console
from rich.progress import track
from rich.table import Table

VARIANTS = {"everything": [], **{f"without {part}": ["--without", part] for part in setting.PARTS}}
SHAPES = {name: value for name, value in OURS.items() if name != "GOMP_SPINCOUNT"}
ENVIRONMENTS = {
    "threads that spin": SHAPES,
    "threads that sleep": SHAPES | {"OMP_WAIT_POLICY": "PASSIVE"},
    "products of 1,024 shapes kept": {name: value for name, value in OURS.items() if "CAPACITY" not in name},
}
VARIANTS |= {name: [] for name in ENVIRONMENTS} | {"encoder frozen": ["--freeze", "encoder"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("minilm", "base"), default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=10)
    options = parser.parse_args()
    results = setting.HERE / f"without-{options.size}.jsonl"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "texts"
        setting.prepare(folder, options.size)
        precision = faster("ours", folder)
        for _ in track(range(options.rounds), description="rounds"):
            line: dict[str, Any] = {"precision": precision}
            for variant, arguments in VARIANTS.items():
                command = [sys.executable, str(setting.HERE / "ours.py"), str(folder), *arguments]
                command += ["--updates", str(options.updates), "--warm-up", "2", "--precision", precision]
                environment = os.environ | ENVIRONMENTS.get(variant, OURS)
                output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
                figures = json.loads(output.strip().splitlines()[-1])
                line[variant] = {name: figures[name] for name in ("tokens", "seconds", "peak_memory", "started")}
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
    rounds = [json.loads(line) for line in results.read_text().splitlines()]
    made = Table("", "tokens/s", "of everything's", "GiB", title=f"{len(rounds)} rounds, medians")
    for variant in VARIANTS:
        speeds = [each[variant]["tokens"] / each[variant]["seconds"] for each in rounds]
        whole = [each["everything"]["tokens"] / each["everything"]["seconds"] for each in rounds]
        ratio = statistics.median(mine / all_ for mine, all_ in zip(speeds, whole, strict=True))
        memory = statistics.median(each[variant]["peak_memory"] - each[variant]["started"] for each in rounds)
        made.add_row(variant, f"{statistics.median(speeds):,.0f}", f"{ratio:.2f} x", f"{memory / 2**30:.2f}")
    Console(width=100).print(made)


if __name__ == "__main__":
    setting.quiet()
    main()
