"""Multirun: Hydra's sweepers and launchers choose the points; each point is a run folder with processes of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.overrides import check_overrides, compose_config, plain, register_defaults, search_path
from encdec_lightning.launch.presets import ROOT, conf_folder


def sweep(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[Path]:
    """Run every point of a sweep and return the folders.

    A point's folder is named by its identity: repeating a sweep skips what is finished and continues what is not.
    Before the first point starts, all points of the basic sweeper are checked; raises `UserErrors` with every mistake.
    """
    import hydra

    mistakes, usable = check_overrides(overrides, config_dirs)
    if mistakes:
        raise UserErrors(mistakes)
    _check_points(usable, config_dirs)
    register_defaults()
    folders: list[Path] = []
    arguments = [sys.argv[0], "--multirun", *usable, *search_path(config_dirs)]
    previous, sys.argv = sys.argv, arguments
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what goes wrong instead of printing it and exiting with 1
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=ROOT)(
            lambda composed: _point(composed, folders)
        )()
    finally:
        sys.argv = previous
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    return folders


def _point(composed: Any, folders: list[Path]) -> float | None:
    """One point: freeze, train in a process of its own, and return what the task monitors, for searching sweepers."""
    from encdec_lightning.config import convert
    from encdec_lightning.launch.prepare import prepare
    from encdec_lightning.launch.processes import start

    config = convert(plain(composed))
    run = prepare(config, in_sweep=True)
    start(run, own_process=True)
    folders.append(run.folder)
    value = run.metrics().get(f"best/{config.task.monitor}")
    return None if value is None else float(value)


def _check_points(overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Compose and check each point of a plain grid; another sweeper chooses its points as it goes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from encdec_lightning.launch.prepare import check_all

    if any(line.startswith("hydra/sweeper=") for line in overrides):
        return
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    (points,) = BasicSweeper.split_arguments(parsed, None)
    found: dict[str, UserError] = {}
    for point in points:
        try:
            problems = check_all(compose_config(point, config_dirs))
        except UserErrors as errors:
            problems = list(errors.problems)
        found |= {str(problem): problem for problem in problems}
    if found:
        raise UserErrors(found.values())
