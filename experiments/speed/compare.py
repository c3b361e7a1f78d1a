"""Training speed beside the Hugging Face Trainer, alternating; `python experiments/speed/compare.py --size minilm`.

Every figure comes from a process of its own. Rounds are appended to the results' file as they end, and a further call
adds more; the table at the end is of the rounds in it that this kind of processor ran with this commit and allocator.
Each program works in bf16 or in fp32, whichever a short trial on this machine finds faster for it, unless `--precision`
says so. The peer needs `pip install accelerate`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import setting
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from encdec_lightning import Tokenizers, compose
from encdec_lightning.cli.environment import BEFORE_TORCH, PRELOADED, before_start
from encdec_lightning.kernels.products import processor_has_bf16
from encdec_lightning.training.flops import matrix_product_peak, training_flops
from encdec_lightning.training.product_speeds import processor

PROGRAMS = {"ours": ["ours.py"], "peer, best": ["peer.py", "grouped"], "peer, default": ["peer.py", "default"]}
UPDATES = {  # {size: {name: (to warm up, measured)}}; the default peer takes minutes at base size
    "minilm": {"ours": (2, 16), "peer, best": (2, 8), "peer, default": (2, 4)},
    "base": {"ours": (1, 4), "peer, best": (1, 2)},
}
OURS = BEFORE_TORCH | before_start()  # the peer runs with what its users have, unless --same-allocator is given
STATES = 16  # bytes a parameter: fp32 weights, gradients, two moments


TRIAL = (1, 2)  # updates to warm up, and measured, of the trial that chooses the precision


def run(
    name: str, folder: Path, precision: str, updates_of: tuple[int, int], more: Sequence[str] = (), same: bool = False
) -> dict[str, Any]:
    """Figures of one process."""
    program, *arguments = PROGRAMS[name]
    warm_up, updates = updates_of
    command = [sys.executable, str(setting.HERE / program), str(folder), *arguments, *more]
    command += ["--updates", str(updates), "--warm-up", str(warm_up), "--precision", precision]
    environment = os.environ | (OURS if name == "ours" else before_start() if same else {})
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    figures: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return figures


def faster(name: str, folder: Path) -> str:
    """The precision in which a program does more tokens a second here; the two take turns, twice."""
    if not processor_has_bf16():
        return "fp32"
    speeds = dict.fromkeys(setting.PRECISIONS, 0.0)
    for precision in setting.PRECISIONS * 2:
        figures = run(name, folder, precision, TRIAL)
        speeds[precision] = max(speeds[precision], figures["tokens"] / figures["seconds"])
    print(name, {precision: f"{speed:,.0f} tokens/s" for precision, speed in speeds.items()}, flush=True)
    return max(speeds, key=speeds.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("minilm", "base"), default="minilm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="default: results-<size>.jsonl beside this file")
    parser.add_argument("--precision", choices=setting.PRECISIONS, help="of all programs; default: each one's faster")
    parser.add_argument("--same-allocator", action="store_true", help="give the peers the allocator that ours has")
    parser.add_argument("--operators", action="store_true", help="one more run of each, with the time by operator")
    options = parser.parse_args()
    allocator = ("tcmalloc" if PRELOADED in before_start() else "glibc") + ", all" * options.same_allocator
    results = options.results or setting.HERE / f"results-{options.size}.jsonl"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "texts"
        setting.prepare(folder, options.size)
        flops, updates = training_flops(build(folder)), UPDATES[options.size]
        chosen = {name: options.precision or faster(name, folder) for name in updates}
        here = {"processor": processor(), "version": version(), "allocator": allocator, "precision": chosen}
        for _ in track(range(options.rounds), description="rounds"):
            peaks = {each: matrix_product_peak(torch.device("cpu"), of, 1.0) for each, of in setting.DTYPES.items()}
            figures = {
                name: run(name, folder, chosen[name], counts, same=options.same_allocator)
                for name, counts in updates.items()
            }
            line = {**here, "peaks": peaks, **figures}
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if options.operators:
            for name, counts in updates.items():
                file = setting.HERE / f"operators-{options.size}-{name.replace(', ', '-')}.json"
                run(name, folder, chosen[name], counts, ["--operators", str(file)])
    rounds = [json.loads(line) for line in results.read_text().splitlines()]
    same = [each for each in rounds if {**each, **here} == each]
    print(f"{processor()}; peaks: {', '.join(f'{each / 1e9:.0f} GFLOP/s in {name}' for name, each in peaks.items())}")
    Console(width=120).print(table(same, flops.source_token, flops.target_token))


def version() -> str:
    """The package's, by its commit."""
    command = ["git", "-C", str(setting.HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def build(folder: Path) -> Any:
    """The model that all train."""
    checkpoint = str(folder / "checkpoint")
    return compose(checkpoint, checkpoint, tokenizers=Tokenizers.from_pretrained(checkpoint, checkpoint))


def table(rounds: list[dict[str, Any]], source_token: float, target_token: float) -> Table:
    """Medians over rounds, and of the rounds' ratios."""
    made = Table(title=f"{len(rounds)} rounds, medians")
    for column in ("", "precision", "tokens/s", "pairs/s", "ours is", "of peak", "GiB above states", "ours has"):
        made.add_column(column, justify="left" if column in ("", "precision") else "right")
    for name in (name for name in PROGRAMS if name in rounds[0]):
        of = [each[name] for each in rounds]
        speeds = [each["tokens"] / each["seconds"] for each in of]
        ours = [each["ours"]["tokens"] / each["ours"]["seconds"] for each in rounds]
        ratios = [mine / theirs for mine, theirs in zip(ours, speeds, strict=True)]
        # attention's own products, 2-4% at these lengths, are left out: batches are not kept
        work = [each["source"] * source_token + each["target"] * target_token for each in of]
        peaks = [each["peaks"][each["precision"][name]] for each in rounds]
        shares = [w / each["seconds"] / peak for w, each, peak in zip(work, of, peaks, strict=True)]
        memory = [each["peak_memory"] - each["started"] - STATES * each["parameters"] for each in of]
        mine = [each["ours"] for each in rounds]
        mine_memory = [each["peak_memory"] - each["started"] - STATES * each["parameters"] for each in mine]
        share = statistics.median(a / b for a, b in zip(mine_memory, memory, strict=True))
        formats = sorted({each["precision"][name] for each in rounds})
        made.add_row(
            name,
            ", ".join(formats),
            f"{statistics.median(speeds):,.0f}",
            f"{statistics.median(each['examples'] / each['seconds'] for each in of):.1f}",
            f"{statistics.median(ratios):.2f} x",
            f"{statistics.median(shares):.0%}",
            f"{statistics.median(memory) / 2**30:.2f}",
            f"{share:.0%}",
        )
    return made


if __name__ == "__main__":
    setting.quiet()
    main()
