"""The options of a job of Slurm's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from encdec_lightning.errors import require

SECRET = re.compile(r"\b\w*(KEY|TOKEN|SECRET|PASSWORD|PASSWD)\s*=\s*[^\s$]", re.IGNORECASE)
"""A variable that is set to a secret, not to what a command or another variable holds."""
TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
LONGEST_SIGNAL = 65535  # seconds that sbatch's --signal takes


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A job of Slurm's for a run or for all points of a sweep, which `hydra/launcher=slurm` submits."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    partition: str | None = None
    """The partition. This option and those below act with `hydra/launcher=slurm`; those that `sbatch` has mean the
    same, and null leaves it to the site."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """The quality of service."""
    time: str | None = None
    """Time limit of a start, such as 30 (minutes), 08:00:00 or 2-00; a run that is not done then goes on in another."""
    nodes: int | None = None
    """Nodes of a run; null: as `trainer.num_nodes`, which it must equal."""
    ntasks_per_node: int | None = None
    """Processes of a run on each node; null: as `trainer.devices`, which it must equal."""
    cpus_per_task: int | None = None
    """Processor cores of each process; `data.workers` need some too."""
    gpus_per_node: int | str | None = None
    """GPUs of a run on each node, such as 4 or a100:4."""
    mem: int | str | None = None
    """Memory on each node, such as 64G; a number alone is MiB."""
    constraint: str | None = None
    """Features of the nodes."""
    array_throttle: int | None = None
    """At most so many points of a sweep at once."""
    requeues: int = 100
    """A run that is preempted or at its time limit saves a checkpoint and is queued again, at most so often."""
    signal_seconds: int = 120
    """Seconds before the time limit at which a run is asked to end: for a step, a validation and the checkpoint."""
    setup: list[str] = field(default_factory=list)
    """Lines of the script before the run, such as ["module load cuda"]."""
    environment: list[str] = field(default_factory=list)
    """Names of further environment variables that the job takes from the shell that submits it."""
    options: list[str] = field(default_factory=list)
    """Further options of `sbatch` as they are typed, such as [--exclude=node7]."""
    print: bool = False
    """Print the script instead of submitting it; the runs' folders are made."""

    def __post_init__(self) -> None:
        at_least_one = ("nodes", "ntasks_per_node", "cpus_per_task", "array_throttle", "signal_seconds")
        numbers = [(name, getattr(self, name)) for name in at_least_one]
        require(
            *((name, each, each is None or each >= 1, "it must be at least 1") for name, each in numbers),
            ("requeues", self.requeues, self.requeues >= 0, "it must be at least 0"),
            *self._texts(),
        )

    def _texts(self) -> Iterator[tuple[str, object, bool, str]]:
        """Rules for what stands in the script as a text."""
        for name in ("partition", "account", "qos", "gpus_per_node", "mem", "constraint"):
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                yield name, value, value > 0, "it must be at least 1"
            if isinstance(value, str):
                fits = re.fullmatch(r"""[^\s"'\\]+""", value) is not None
                yield name, value, fits, "it must be a text without spaces and quotes, as in sbatch"
        fits = self.time is None or TIME.fullmatch(self.time) is not None
        yield "time", self.time, fits, "it must be such as 30 or 08:00:00"
        yield (
            *("signal_seconds", self.signal_seconds, self.signal_seconds <= LONGEST_SIGNAL),
            f"sbatch takes {LONGEST_SIGNAL} seconds at most",
        )
        limit = _seconds(self.time) if self.time is not None and fits else None
        if limit:  # 0 is no limit
            expected = f"slurm.time={self.time} are {limit} seconds: a run would be asked to end before it has begun"
            yield "signal_seconds", self.signal_seconds, self.signal_seconds < limit, expected
        for name in ("setup", "options"):
            for line in getattr(self, name):
                yield name, line, "\n" not in line, "each must be one line"
                hint = "it must not hold a secret: name its variable in slurm.environment, or read it from a file"
                yield name, "...", SECRET.search(line) is None, hint
        for line in self.options:
            expected = "each must be an option of sbatch, such as --exclude=node7"
            yield "options", line.partition("=")[0], line.startswith("-"), expected
        for name in self.environment:
            fits = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is not None
            yield "environment", "...", fits, "each must be the name of a variable, without a value"


def _seconds(time: str) -> int:
    """Of a time limit as `sbatch` reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours, ..."""
    found = TIME.fullmatch(time)
    assert found is not None
    days, *parts = (None if each is None else int(each) for each in found.groups())
    given = [each for each in parts if each is not None]
    if days is not None:  # hours first
        hours, minutes, seconds = [*given, 0, 0][:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:
        hours, (minutes, seconds) = 0, [*given, 0][:2]
    return ((days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds
