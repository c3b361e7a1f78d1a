"""Train one cell of a block again, and tell whether it reproduced.

`python experiments/miniature/reproduce.py summarization variant=bertshare --data FOLDER` takes some minutes. The new
run has reproduced if its score lies where one more seed is expected: inside the 95% prediction interval of the other
seeds that results/ has, with the variance of all cells of the block. With a seed that is there, the same checkpoints
and the same kind of processor the scores are the very same. The exit code is 1 where it has not reproduced, 3 where
results/ has too few runs to tell.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from findings import SCORES, STUDENT, SUMMARIES
from results import Result, read
from run import BLOCKS, setting_of

from encdec_lightning.launch.loggers.labels import point_label
from encdec_lightning.run import Run
from encdec_lightning.training.product_speeds import processor


def expected(scores: list[float], cells: list[list[float]]) -> tuple[float, float] | None:
    """The 95% interval in which the score of one more seed lies, if scores are normally distributed.

    `cells` are the scores of each cell by seed, whose variance is taken for one and the same. None with too few.
    """
    freedom = sum(len(each) - 1 for each in cells)
    if not scores or freedom < 1:
        return None
    variance = sum((len(each) - 1) * statistics.variance(each) for each in cells if len(each) > 1) / freedom
    half = STUDENT[min(freedom, len(STUDENT)) - 1] * (variance * (1 + 1 / len(scores))) ** 0.5
    return statistics.fmean(scores) - half, statistics.fmean(scores) + half


def main() -> int:
    """The exit code; 2 where there is no such cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS, metavar="BLOCK", help=", ".join(BLOCKS))
    parser.add_argument(
        "options", nargs="*", metavar="OPTION=VALUE", help="one value of each axis, such as variant=bertshare"
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    kept, block = cells(given.block), BLOCKS[given.block]
    label = ", ".join(sorted(point_label(given.options, ()).split(", ")))
    if label not in kept:
        axes = "; ".join(block.axes) or "none, it has one cell"
        print(f"{given.block} has no cell {label!r}: give one value of each of its axes ({axes})", file=sys.stderr)
        return 2
    folder = Path("runs") / "miniature-cell" / re.sub(r"[^\w.-]+", "-", f"{given.block}-{label}-{given.seed}")
    setting = setting_of(given.block, given.data.resolve())
    line = [*setting, *block.fixed, *given.options, f"seed={given.seed}", f"folder={folder}"]
    print(shlex.join(line), flush=True)
    if code := subprocess.run(line, check=False).returncode:
        return code
    name = SCORES.get(given.block, SUMMARIES)[1]
    score = Run(folder).metrics()[f"test/{name}"]
    same = kept[label].pop(str(given.seed), None)
    every = [[each.scores[name] for each in runs.values()] for runs in kept.values()]
    told, code = judged(score, expected([each.scores[name] for each in kept[label].values()], every))
    print(f"{given.block}, {label}, seed {given.seed}: {name} is {told}")
    if same is not None:
        print(f"With the same seed it was {same.scores[name]:.4f} on {same.processor}; this is {processor()}.")
    return code


def cells(block: str) -> dict[str, dict[str, Result]]:
    """The runs of each cell that has some, by their seeds."""
    found: dict[str, dict[str, Result]] = {}
    for each in read(block):
        label = ", ".join(f"{name}={value}" for name, value in sorted(each.point.items()) if name != "seed")
        found.setdefault(label, {})[each.point["seed"]] = each
    return found


def judged(score: float, interval: tuple[float, float] | None) -> tuple[str, int]:
    """A score in words, and the exit code: whether it lies where the other seeds let one expect it."""
    if interval is None:
        return f"{score:.4f}; results/ has too few seeds to tell how far scores lie apart", 3
    low, high = interval
    where = f"the other seeds let expect {low:.2f} to {high:.2f}"
    if low <= score <= high:
        return f"{score:.4f}; {where}: it reproduced", 0
    return f"{score:.4f}; {where}: it did not reproduce", 1


if __name__ == "__main__":
    sys.exit(main())
