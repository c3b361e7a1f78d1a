"""Multirun: Hydra's sweepers and launchers choose the points; each point is a run folder with processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encdec_lightning.cluster.queue import is_slurm_job
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors, reason
from encdec_lightning.launch.command_line.hydra_compose import compose_raw, register_defaults, search_path
from encdec_lightning.launch.command_line.hydra_errors import restated
from encdec_lightning.launch.command_line.hydra_values import plain
from encdec_lightning.launch.command_line.names import check_overrides, is_sweep
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.presets import ROOT, conf_folder
from encdec_lightning.launch.command_line.reading import read_argument
from encdec_lightning.launch.hparams_search import search
from encdec_lightning.launch.loggers.labels import point_label
from encdec_lightning.launch.nursery import nursery
from encdec_lightning.launch.points import Point, Points, folder_of_points, points_in
from encdec_lightning.launch.submit import checked, refused, submit

LOCAL = ("basic", "joblib")
"""Launchers whose points run on this machine; of any other nobody knows."""


def sweep(overrides: Sequence[str], config_dirs: Sequence[Path]) -> Points:
    """Run every point of a sweep.

    A point's folder is named by its identity: repeating a sweep skips what is finished and continues what is not.
    Before the first point starts, all points of the basic sweeper are checked; raises `UserErrors` with every mistake.
    A point that fails later does not keep the others from running, unless a sweeper that chooses points as it goes
    decides so. With the launcher slurm the points become one job, and none has begun when this returns. A search by
    Optuna has its own way, `search`, which prints what it has found.
    """
    usable = _checked(overrides, config_dirs)
    composed = compose_raw(_same(usable), config_dirs, with_hydra=True)
    in_turns_here = composed.hydra.runtime.choices["hydra/launcher"] == "basic" and not is_slurm_job()
    forks = in_turns_here and sys.platform == "linux"  # elsewhere a fork of what has loaded torch may crash
    with nursery() if forks else nullcontext():  # it loads what points need while they are checked
        return _sweep(usable, config_dirs, composed)


def _sweep(usable: list[str], config_dirs: Sequence[Path], composed: Any) -> Points:
    choices = composed.hydra.runtime.choices
    by_slurm = choices["hydra/launcher"] == "slurm"
    if choices["hydra/sweeper"] == "optuna" and not by_slurm:
        search(usable, config_dirs, composed.hydra)
        return Points((), ())
    grid_alone = composed.hydra.sweeper._target_.endswith(".BasicSweeper")
    if grid_alone:
        # The grid that a preset asks for goes to Hydra as if it were typed: the same checks, the same freedom.
        grid = [f"{name}={values}" for name, values in (composed.hydra.sweeper.params or {}).items()]
        usable = [*_checked(grid, config_dirs), *usable]
        if by_slurm:
            _check_hydra(usable)
        _refuse_intervals(usable)
        here = choices["hydra/launcher"] in LOCAL
        configs = _check_points(usable, config_dirs, here, by_slurm)
        if by_slurm:
            submit(checked([config for _, config in configs]), _folder_of(composed), [told for told, _ in configs])
            return Points((), ())
        usable.append("hydra.sweeper.params=null")
    elif by_slurm:
        expected = "it takes a grid alone: a search that chooses points as it goes must live on, in a job of its own"
        raise UserErrors([UserError("hydra/launcher", "slurm", expected)])
    with folder_of_points(_folder_of(composed)) as folder:
        given_up = _run_hydra(
            _Launched(folder, _same(usable), searched=not grid_alone), [*usable, *search_path(config_dirs)]
        )
        points = points_in(folder)
    if given_up is not None and not points.failed:  # else it is because of a point's failure
        raise given_up
    return points


def _check_hydra(overrides: Sequence[str]) -> None:
    """Raise `UserErrors` for what of Hydra does not act on a job of Slurm's, whose points it does not start."""
    found = []
    for line in overrides:
        name, _, value = line.lstrip("+~").partition("=")
        if name.startswith("hydra") and name not in ("hydra/launcher", "hydra/sweeper", "hydra.sweep.dir"):
            expected = "it has no effect on a job of Slurm's; slurm.setup takes commands, slurm.environment variables"
            found.append(UserError(name, value, expected))
    if found:
        raise UserErrors(found)


def _refuse_intervals(overrides: Sequence[str]) -> None:
    """Raise `UserErrors` for an interval, of which a grid has no values."""
    read = [read_argument(line, sweeps=True) for line in overrides]
    expected = "a grid takes its values, such as a,b or range(1,4); hparams_search=optuna draws some from an interval"
    found = [UserError(each.name, each.given, expected) for each in read if each.is_interval]
    if found:
        raise UserErrors(found)


def _folder_of(composed: Any) -> Path:
    """The sweep's own folder; the usual one where its name depends on what Hydra knows only as it runs."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return Path(str(composed.hydra.sweep.dir))
    except OmegaConfBaseException:
        return Path("runs", "sweeps")


def _run_hydra(task: Callable[[Any], float | None], overrides: Sequence[str]) -> Exception | None:
    """Let Hydra call `task` for each point; what makes a sweeper or a launcher give up is returned.

    Not by `hydra.main`: its parser of arguments cannot be built since Python 3.14.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    register_defaults()
    try:
        with initialize_config_dir(str(conf_folder()), job_name="sweep", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.multirun(config_name=ROOT, task_function=task, overrides=[*overrides, "hydra.mode=MULTIRUN"])
    except HydraException as error:
        raise UserErrors([restated(error)]) from None
    except Exception as error:
        return error
    return None


@dataclass(frozen=True)
class _Launched:
    """What Hydra's launcher calls for a point, wherever it does: it can be pickled, and gives its results by files."""

    folder: Path
    """Of the sweep's points."""
    same: tuple[str, ...]
    """Overrides of all points."""
    searched: bool
    """Whether a sweeper chooses points as it goes: it is told of failures, and decides itself whether it goes on."""

    def __call__(self, composed: Any) -> float | None:
        """Freeze, train in a process of its own, and give what the task monitors."""
        from hydra.core.hydra_config import HydraConfig

        from encdec_lightning.launch.processes import start
        from encdec_lightning.launch.run_folder import make_run
        from encdec_lightning.rules import convert

        register_defaults()  # this may be another process than the command's
        point = Point(self.folder, HydraConfig.get().job.num)
        told = point_label(HydraConfig.get().overrides.task, self.same)
        config = convert(plain(composed))
        try:
            run = make_run(config, told)
        except (UserError, UserErrors) as error:
            point.is_at(config.folder or config.name, reason(error))
            if self.searched:
                raise
            return None
        point.is_at(run.folder)
        try:
            start(run, own_process=True)
        except Exception as error:
            point.has_failed(run, error)
            if self.searched:
                raise
            return None
        value = run.metrics().get(f"best/{config.task.monitor}")
        return None if value is None else float(value)


def _checked(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    mistakes, usable = check_overrides(overrides, config_dirs, multirun=True)
    if mistakes:
        raise UserErrors(mistakes)
    return usable


def _same(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(line for line in overrides if not is_sweep(line))


def _check_points(
    overrides: Sequence[str], config_dirs: Sequence[Path], here: bool, by_slurm: bool
) -> list[tuple[str, Config]]:
    """What sets each point of a plain grid apart, and its checked config. Other sweepers choose points as they go.

    `here`: the points run on this machine, which must have what they ask for.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from encdec_lightning.launch.checks.checks import check_all

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    try:
        (points,) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise UserErrors([restated(error)]) from None
    configs: list[tuple[str, Config]] = []
    found: dict[str, UserError] = {}
    folders: set[str] = set()
    for point in points:
        try:
            config = compose_config(point, config_dirs, multirun=True)
            problems = [*check_all(config, here), *refused(config, by_slurm=by_slurm)]
            configs.append((point_label(point, _same(overrides)), config))
            if config.folder in folders:
                problems.append(UserError("folder", config.folder, "each point of a sweep needs a folder of its own"))
            folders |= {config.folder} if config.folder is not None else set()
        except UserErrors as errors:
            problems = list(errors.problems)
        found |= {str(problem): problem for problem in problems}
    if found:
        raise UserErrors(found.values())
    return configs
