"""A checked config in, the folder of its run out, with the config settled and frozen in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from encdec_lightning.cluster.queue import in_queue
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import kind_of, new_folder
from encdec_lightning.launch.auto_precision import with_precision
from encdec_lightning.launch.checks.checks import check_all
from encdec_lightning.launch.processes import recover
from encdec_lightning.launch.settle import say_what_is_tested, settle
from encdec_lightning.run import Run


def make_run(config: Config, point: str | None = None, checked: bool = False) -> Run:
    """The run of a config, checked unless it is so already, settled, its folder made, its config frozen.

    `point` says of a point of a sweep what sets it apart.

    Raises `UserErrors`.
    """
    found = [] if checked else check_all(config)
    if found:
        raise UserErrors(found)
    asked, config = config, settle(config)
    say_what_is_tested(asked, config)
    config = with_precision(config)
    identity = config.identity()
    last = identity[:12] if point is not None else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    if config.folder is not None or point is not None:
        folder = Path(config.folder) if config.folder is not None else Path("runs", config.name, last)
    else:
        folder = new_folder(Path("runs", config.name, last))
    if kind_of(Run(folder).config_file) == "file":
        recover(Run(folder))
        _check_queue(Run(folder), identity)
    run = Run.create(folder, config.frozen(), identity)
    if point is not None:
        run.note(point=point)
    return run


def _check_queue(run: Run, identity: str) -> None:
    """Raise `UserError` where a job in Slurm's queue waits for a run that another one would replace."""
    job = run.slurm / "job"
    if run.identity() == identity or kind_of(job) != "file":
        return
    number = job.read_text(encoding="utf-8")
    if in_queue([number]):
        expected = f"job {number} waits for the run in it: scancel {number} first, or choose another folder"
        raise UserErrors([UserError("folder", str(run.folder), expected)])
