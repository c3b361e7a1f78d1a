"""What checking an entry of the cache costs: `python experiments/data/opening.py --pairs 10000000 --folder /tmp/x`.

Synthetic files of the sizes that so many pairs have (26 and 8 tokens, 200 bytes of text), and a folder of the same kind
as the cache's. Times are medians, with the files in the system's memory, and once after it was told to forget them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from encdec_lightning.cache import entries
from encdec_lightning.data.examples.store import COLUMNS, OnDisk, StoreWriter

TOKENS, TEXT = (26, 8), 200


def build(folder: Path, pairs: int) -> None:
    """Files of the sizes of a split of so many pairs."""
    StoreWriter(folder, (30_000, 30_000)).close()
    draw = np.random.default_rng(0)
    constant = {"lengths": TOKENS, "whole_lengths": TOKENS, "text_lengths": (TEXT,)}
    for name, (kind, width) in COLUMNS.items():
        row = constant.get(name)
        values = draw.integers(0, 2**31, (pairs, width)) if row is None else np.tile(row, (pairs, 1))
        values.astype(kind).tofile(folder / f"{name}.bin")
    for name, size in (("source", 2 * TOKENS[0]), ("target", 2 * TOKENS[1]), ("texts", TEXT)):
        with (folder / f"{name}.bin").open("wb") as stream:
            for start in range(0, pairs, 100_000):
                stream.write(draw.bytes(size * min(100_000, pairs - start)))


def forget(folder: Path) -> None:
    """Ask the system not to keep the files in memory."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(work: Callable[[], object], repeats: int = 5) -> list[float]:
    """How long it took, each time."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are written; 4 GB at 10 million")
    options = parser.parse_args()
    folder = options.folder / f"pairs{options.pairs}"
    entries.entry(folder, lambda new: build(new, options.pairs))
    size = sum(file.stat().st_size for file in folder.iterdir())
    forget(folder)
    print(f"checked from the disk: {seconds(lambda: entries.damage(folder), 1)[0]:.2f} s")
    assert entries.damage(folder) is None
    for name, work in (("opened", lambda: OnDisk(folder)), ("checked", lambda: entries.damage(folder))):
        found = seconds(work)
        rate = f", {size / statistics.median(found) / 1e9:.1f} GB/s" if name == "checked" else ""
        print(f"{name}: {statistics.median(found):.2f} s ({min(found):.2f}-{max(found):.2f}){rate}")
    print(f"{options.pairs:,} pairs, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
