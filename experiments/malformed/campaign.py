"""Give the five commands malformed inputs of every kind, and count what must not be: tracebacks, silence, waiting.

    python experiments/malformed/campaign.py [cases] [seed]

The cases are drawn by a seed from all that tests/nasty.py and tests/nasty_files.py make; 0 takes all of them.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(count: int = 400, seed: int = 0) -> int:
    import nasty
    import nasty_files
    import tiny
    from attempts import attempt, good_run

    warnings.simplefilter("ignore")
    sets = {
        "options by the schema": nasty.from_schema(),
        "arguments of open slots by their signatures": nasty.from_signatures(),
        "words of a command line": nasty_files.from_lines(),
        "presets": nasty_files.from_presets(),
        "folders and configs of runs": nasty_files.from_runs(),
        "data, inputs, outputs, paths": nasty_files.from_data(),
    }
    draw, found = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "world"
        world.mkdir()
        files = tiny.write_all(world)
        good_run(world / "run", files)
        for kind, cases in sets.items():
            chosen = draw.sample(cases, min(len(cases), count // len(sets) if count else len(cases)))
            made = [attempt(case, files, world, Path(name) / "case") for case in chosen]
            found += made
            codes = Counter(str(each.code) for each in made)
            print(f"{kind}: {len(made)} of {len(cases)} cases, exit codes {dict(codes)}", flush=True)
            for each in made:
                for fault in each.faults:
                    print(f"  {each.case.command} {each.case.name}: {fault}", flush=True)
    slowest = max(found, key=lambda each: each.seconds)
    times = sorted(each.seconds for each in found)
    print(f"{len(found)} cases, {sum(bool(each.error) for each in found)} tracebacks or hangings, "
          f"{sum(bool(each.faults) for each in found)} with a fault")  # fmt: skip
    print(
        f"half of them within {times[len(times) // 2]:.2f} s, the slowest {slowest.seconds:.1f} s: {slowest.case.name}"
    )
    return int(any(each.faults for each in found))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
