"""Train one cell of a block again, and tell whether it reproduced.

`python experiments/miniature/reproduce.py summarization variant=bertshare --data FOLDER` takes some minutes. The new
run has reproduced if its score lies where one more seed is expected: inside the 95% prediction interval of the other
seeds that results/ has. With a seed that is there, on the same kind of processor, the scores are the very same.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from findings import SCORES, SUMMARIES
from results import Result, read
from run import BLOCKS, setting_of

from encdec_lightning.launch.loggers.labels import point_label
from encdec_lightning.run import Run
from encdec_lightning.training.product_speeds import processor

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Two-sided 95% quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""


def expected(scores: list[float]) -> tuple[float, float]:
    """The 95% interval in which the score of one more seed lies, if scores are normally distributed; of 2 to 10."""
    half = STUDENT[len(scores) - 2] * statistics.stdev(scores) * (1 + 1 / len(scores)) ** 0.5
    return statistics.fmean(scores) - half, statistics.fmean(scores) + half


def main() -> int:
    """1 where the cell has not reproduced, 2 where there is no such cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS, metavar="BLOCK", help=", ".join(BLOCKS))
    parser.add_argument(
        "options", nargs="*", metavar="OPTION=VALUE", help="one value of each axis, such as variant=bertshare"
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of debsum, debmt and wikifusion")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    label, kept, block = point_label(given.options, ()), cells(given.block), BLOCKS[given.block]
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
    told, fine = judged(score, [each.scores[name] for each in kept[label].values()])
    print(f"{given.block}, {label}, seed {given.seed}: {name} is {told}")
    if same is not None:
        print(f"With the same seed it was {same.scores[name]:.4f} on {same.processor}; this is {processor()}.")
    return 0 if fine else 1


def cells(block: str) -> dict[str, dict[str, Result]]:
    """The runs of each cell that has some, by their seeds."""
    found: dict[str, dict[str, Result]] = {}
    for each in read(block):
        label = ", ".join(f"{name}={value}" for name, value in each.point.items() if name != "seed")
        found.setdefault(label, {})[each.point.get("seed", "0")] = each  # a search has no axis of seeds
    return found


def judged(score: float, known: list[float]) -> tuple[str, bool]:
    """A score in words, and whether it lies where those of other seeds let one expect it."""
    if len(known) < 2:
        return (
            f"{score:.4f}; two other seeds are needed to tell how far scores lie apart, and there are {len(known)}",
            True,
        )
    low, high = expected(known)
    where = f"the other {len(known)} seeds let expect {low:.2f} to {high:.2f}"
    if low <= score <= high:
        return f"{score:.4f}; {where}: it reproduced", True
    return f"{score:.4f}; {where}: it did not reproduce", False


if __name__ == "__main__":
    sys.exit(main())
