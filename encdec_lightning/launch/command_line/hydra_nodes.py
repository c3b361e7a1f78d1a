"""Options of Hydra's own: those that act here act in sweeps; each other one is refused with what to use instead."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from encdec_lightning.errors import UserError, did_you_mean

SLURM = ("hydra/launcher", "slurm")
"""What makes a job of Slurm's of a run, or of all points of a sweep."""
ITSELF = "Hydra sets it itself"
IN_SWEEPS = (
    *("sweeper", "launcher", "callbacks", "sweep.dir", "job.env_set", "job.env_copy"),
    *("hydra_logging", "job_logging", "verbose"),
)
"""What changes a sweep: who chooses and starts the points, in which environment, and what is logged of it."""
INSTEAD = {
    "mode": "a sweep is asked for with --multirun",
    "searchpath": "presets of your own are given with --config-dir <folder>",
    "run": "a run's folder is set with folder=<folder>",
    "sweep.subdir": "the folders of a sweep's points are set with folder=<folder>, or follow from name=<name>",
    "help": "the help text is shown with --help",
    "hydra_help": "the help text is shown with --help",
    "output": "a run's folder holds its config.yaml, and is set with folder=<folder>",
    "output_subdir": "a run's folder holds its config.yaml, and is set with folder=<folder>",
    "job.name": "a run's name is set with name=<name>",
    "job.chdir": "a run's folder is set with folder=<folder>, and paths are read from the working folder",
    "job.config": "a run's name is set with name=<name>",
    **{f"job.{name}": ITSELF for name in ("override_dirname", "id", "num", "config_name")},
    "overrides": ITSELF,
    "runtime": ITSELF,
    "sweeper.n_trials": "the number of a search's points is set with search.trials=<number>",
    "sweeper.sampler": "a search's sampler is set with search.sampler=<name>",
    "sweeper.direction": "the direction of a search follows from task.monitor",
    **{f"sweeper.{name}": "a search's folder is named with search.study=<name>" for name in ("storage", "study_name")},
    "env": "an environment for the points of a sweep is set with hydra.job.env_set.<name>=<value>",
}
"""What has no effect, and why or what has."""


def check_hydra(name: str, value: object, multirun: bool) -> UserError | None:
    """The mistake of setting an option of Hydra's, or None where it acts."""
    if (name, value) == SLURM:
        return None
    path = name.partition("@")[0].replace("/", ".").removeprefix("hydra").removeprefix(".")
    unknown = _unknown(path)
    if unknown is not None:
        return UserError(name, value, unknown)
    for known, instead in INSTEAD.items():
        if _inside(path, known):
            return UserError(name, value, f"it has no effect here: {instead}")
    if not any(_inside(path, known) for known in IN_SWEEPS):  # a node that holds options of several kinds
        return UserError(name, value, "its options are set one by one")
    return None if multirun else UserError(name, value, "it acts on a sweep alone, which needs --multirun")


def _inside(path: str, known: str) -> bool:
    return f"{path}.".startswith(f"{known}.")


def _unknown(path: str) -> str | None:
    """What is said of an option that Hydra accepts without a word and does not have."""
    from hydra.conf import HydraConf

    at: Any = HydraConf
    for depth, part in enumerate(path.split(".")):
        if not is_dataclass(at):
            return None
        known = {each.name: each.type for each in fields(at)}
        if depth == 0:
            known |= {group: Any for each in HydraConf().defaults for group in each if group not in known}
            del known["defaults"]
        if part not in known:
            return f"Hydra has no such option{did_you_mean(part, known)}"
        at = known[part]
    return None
