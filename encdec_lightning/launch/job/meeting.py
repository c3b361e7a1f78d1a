"""The ranks of a run meet before the first step: they have one config, one folder, and clocks that agree."""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch.distributed

from encdec_lightning.errors import UserError
from encdec_lightning.run import Run

CLOCKS = 30.0  # seconds by which they may differ
VISIBLE = 60.0  # seconds within which a network file system shows another node's file


@dataclass(frozen=True)
class Seen:
    """What a rank knows of itself."""

    host: str
    config: str
    clock: float


class RanksMeet(lightning.Callback):
    """Before a fit, compares what the ranks see; raises `UserError` on each where they cannot work together.

    Args:
        run: the run, whose config and folder are compared.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Meet."""
        if stage != "fit" or not torch.distributed.is_initialized():
            return
        rank, meeting = trainer.global_rank, trainer.strategy.broadcast(time.time_ns())
        here = self._run.folder / f".rank-{rank}-{meeting}"
        here.touch()
        seen: list[Seen] = [None] * trainer.world_size  # type: ignore[list-item]  # filled in place
        config = hashlib.sha256(self._run.config_file.read_bytes()).hexdigest()
        trainer.strategy.barrier()
        torch.distributed.all_gather_object(seen, Seen(socket.gethostname(), config, time.time()))
        try:
            problem = None
            if rank == 0:
                files = [self._run.folder / f".rank-{each}-{meeting}" for each in range(trainer.world_size)]
                problem = disagreement(self._run, seen) or separation(self._run, seen, missing(files))
            problem = trainer.strategy.broadcast(problem)
        finally:
            here.unlink(missing_ok=True)
        if problem is not None:
            raise UserError(*problem)


def missing(files: list[Path]) -> list[int]:
    """The places of the files that do not appear here in time."""
    until = time.monotonic() + VISIBLE
    while True:
        gone = [place for place, file in enumerate(files) if not file.exists()]
        if not gone or time.monotonic() > until:
            return gone
        time.sleep(0.2)


def separation(run: Run, seen: list[Seen], missing: list[int]) -> tuple[str, str, str] | None:
    """What is wrong where the files of some ranks are missing on rank 0's node, as a `UserError` takes it."""
    if not missing:
        return None
    hosts = sorted({seen[rank].host for rank in missing})
    expected = f"what {', '.join(hosts)} writes there is not seen on {seen[0].host}: all nodes must share it"
    return "folder", str(run.folder), expected


def disagreement(run: Run, seen: list[Seen]) -> tuple[str, str, str] | None:
    """What is wrong where ranks have different configs; clocks that differ are only said."""
    others = [rank for rank, each in enumerate(seen) if each.config != seen[0].config]
    if others:
        expected = f"rank {others[0]} ({seen[others[0]].host}) reads another config.yaml there than rank 0"
        return "folder", str(run.folder), f"{expected} ({seen[0].host}): all nodes must share it"
    clocks = [each.clock for each in seen]
    if max(clocks) - min(clocks) > CLOCKS:
        late, early = seen[clocks.index(max(clocks))].host, seen[clocks.index(min(clocks))].host
        difference = f"{max(clocks) - min(clocks):.0f} s"
        print(f"The clock of {late} is {difference} ahead of that of {early}; times in logs differ.", file=sys.stderr)
    return None
