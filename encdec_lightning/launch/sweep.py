"""Multirun: Hydra's sweepers and launchers choose the points; each point is a run folder with processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_lightning.errors import JobFailed, UserError, UserErrors, reason
from encdec_lightning.launch.hydra_compose import compose_raw, register_defaults, search_path
from encdec_lightning.launch.hydra_errors import restated
from encdec_lightning.launch.hydra_values import plain
from encdec_lightning.launch.names import check_overrides, is_sweep
from encdec_lightning.launch.overrides import compose_config
from encdec_lightning.launch.presets import ROOT, conf_folder

if TYPE_CHECKING:
    from encdec_lightning.config import Config


@dataclass(frozen=True)
class Points:
    """The points of a sweep in the order in which they ran."""

    finished: list[Path] = field(default_factory=list)
    """Folders of the runs that are whole."""
    failed: list[str] = field(default_factory=list)
    """A line on each other point: its folder, and why it failed."""


def sweep(overrides: Sequence[str], config_dirs: Sequence[Path]) -> Points:
    """Run every point of a sweep.

    A point's folder is named by its identity: repeating a sweep skips what is finished and continues what is not.
    Before the first point starts, all points of the basic sweeper are checked; raises `UserErrors` with every mistake.
    A point that fails later does not keep the others from running. A sweeper that chooses points as it goes is told
    of the failure, and decides itself whether it goes on.
    """
    import hydra
    from hydra.errors import HydraException

    usable = _checked(overrides, config_dirs)
    composed = compose_raw([line for line in usable if not is_sweep(line)], config_dirs, with_hydra=True)
    grid_alone = composed.hydra.sweeper._target_.endswith(".BasicSweeper")
    if grid_alone:
        # The grid that a preset asks for goes to Hydra as if it were typed: the same checks, the same freedom.
        grid = [f"{name}={values}" for name, values in (composed.hydra.sweeper.params or {}).items()]
        usable = [*_checked(grid, config_dirs), *usable]
        _check_points(usable, config_dirs)
        usable.append("hydra.sweeper.params=null")
    register_defaults()
    points = Points()
    arguments = [sys.argv[0], "--multirun", *usable, *search_path(config_dirs)]
    previous, sys.argv = sys.argv, arguments
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what goes wrong instead of printing it and exiting with 1
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=ROOT)(
            lambda composed: _point(composed, points, searched=not grid_alone)
        )()
    except HydraException as error:
        raise UserErrors([restated(error)]) from None
    except Exception:
        if not points.failed:  # else the sweeper gives up after a point's failure
            raise
    finally:
        sys.argv = previous
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    return points


def _point(composed: Any, points: Points, searched: bool) -> float | None:
    """One point: freeze, train in a process of its own, and return what the task monitors, for searching sweepers."""
    from encdec_lightning.launch.processes import start
    from encdec_lightning.launch.run_folder import make_run
    from encdec_lightning.rules import convert

    config: Config = convert(plain(composed))
    try:
        run = make_run(config, in_sweep=True)
    except (UserError, UserErrors) as error:
        points.failed.append(f"{config.folder or config.name}: {reason(error)}")
        if searched:
            raise
        return None
    try:
        start(run, own_process=True)
    except Exception as error:
        said = isinstance(error, JobFailed) or not str(error)  # by the point's own process, in its folder
        points.failed.append(f"{run.folder}: {run.status().get('error') if said else reason(error)}")
        if searched:
            raise
        return None
    points.finished.append(run.folder)
    value = run.metrics().get(f"best/{config.task.monitor}")
    return None if value is None else float(value)


def _checked(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    mistakes, usable = check_overrides(overrides, config_dirs, multirun=True)
    if mistakes:
        raise UserErrors(mistakes)
    return usable


def _check_points(overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Compose and check each point of a plain grid, which no other sweeper has: they choose points as they go."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from encdec_lightning.launch.checks import check_all

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    try:
        (points,) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise UserErrors([restated(error)]) from None
    found: dict[str, UserError] = {}
    folders: set[str] = set()
    for point in points:
        try:
            config = compose_config(point, config_dirs, multirun=True)
            problems = check_all(config)
            if config.folder in folders:
                problems.append(UserError("folder", config.folder, "each point of a sweep needs a folder of its own"))
            folders |= {config.folder} if config.folder is not None else set()
        except UserErrors as errors:
            problems = list(errors.problems)
        found |= {str(problem): problem for problem in problems}
    if found:
        raise UserErrors(found.values())
