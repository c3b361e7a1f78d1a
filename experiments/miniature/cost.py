"""What every cell of the paper would cost on GPUs: `python experiments/miniature/cost.py` prints the tables.

Operations are counted on models without values, for sources and targets of the task's longest lengths, so that hours
are upper bounds: texts that are shorter cost less. Nothing here was measured on a GPU; the share of the peak that a
training reaches is an assumption, `--share`.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.composition.paper import ROWS
from encdec_lightning.config import Config
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.reporting.memory import Setting, memory_per_device
from encdec_lightning.training.flops import TrainingFlops, training_flops

TASKS = ("discofuse", "wikisplit", "wmt14_en_de", "wmt14_de_en", "gigaword", "cnn_dailymail", "xsum")
WMT_PAIRS, EPOCHS = 4_500_000, 30
GPUS = 8


def updates_of(config: Config) -> int:
    """Of a whole training."""
    steps: int | None = config.trainer["max_steps"]
    return steps or WMT_PAIRS * EPOCHS // config.data.update_examples


def operations(flops: TrainingFlops, source: int, target: int) -> float:
    """Of forward and backward pass of one example with these lengths."""
    pairs = flops.source_pair * source**2 + flops.target_pair * target * (target + 1) / 2
    return flops.source_token * source + flops.target_token * target + pairs + flops.cross_pair * target * source


def main() -> None:
    """Print a table of hours and one of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of one GPU in bf16; an H100's is 989")
    parser.add_argument("--share", type=float, default=0.4, help="of that peak a training reaches")
    given = parser.parse_args()
    hours = Table(title=f"GPU hours at most, at {given.share:.0%} of {given.peak:,.0f} TFLOP/s")
    memory = Table(title=f"GiB on each GPU at most, bf16-mixed: one GPU or DDP, FSDP2 over {GPUS}")
    for table in (hours, memory):
        table.add_column("")
        for task in TASKS:
            table.add_column(task, justify="right")
    for row in ROWS:
        costs, sizes = [], []
        for task in TASKS:
            try:
                config = compose_config([f"experiment=rothe2020/{task}", f"variant={row}", "precision=bf16"])
            except UserErrors:  # no RoBERTa reads German
                costs.append("-")
                sizes.append("-")
                continue
            model = skeleton(config.model)
            lengths = config.task.max_source_length, config.task.max_target_length
            total = operations(training_flops(model), *lengths) * config.data.update_examples * updates_of(config)
            costs.append(f"{total / (given.peak * 1e12 * given.share) / 3600:,.0f}")
            setting = Setting(
                precision="bf16-mixed",
                states=2,
                batch_tokens=config.data.batch_tokens,
                lengths=lengths,
                training=config.training,
            )
            one, _, sharded = memory_per_device(model, setting, GPUS).values()
            sizes.append(f"{one.total / 2**30:.1f}, {sharded.total / 2**30:.1f}")
        hours.add_row(row, *costs)
        memory.add_row(row, *sizes)
    console = Console(width=150)
    console.print(hours)
    console.print(memory)


if __name__ == "__main__":
    main()
