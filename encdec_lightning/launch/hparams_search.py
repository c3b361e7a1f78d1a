"""`hydra/sweeper=optuna`: points chosen as the search goes, each a run of its own that may end early."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_lightning.config import Config, Node
from encdec_lightning.errors import JobFailed, UserError, UserErrors, reason
from encdec_lightning.hparams_search.options import Search
from encdec_lightning.hparams_search.space import Space, Value
from encdec_lightning.launch.command_line.names import check_overrides
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.ranges import space_of
from encdec_lightning.launch.loggers.labels import point_label
from encdec_lightning.launch.processes import Pruned, start
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.launch.settle import settle
from encdec_lightning.launch.submit import refused
from encdec_lightning.run import Run
from encdec_lightning.signals import Terminated

if TYPE_CHECKING:
    from encdec_lightning.hparams_search.study import Study, Trial, Tried

RANGE = "give an option to search, such as training.learning_rate=tag(log,interval(1e-5,1e-3))"
CHOSEN = ("hydra/sweeper=optuna", "hparams_search=")
"""What asks for a search; a command without it is that of one run."""


def search(overrides: Sequence[str], config_dirs: Sequence[Path], hydra: Any) -> None:
    """Try points until the study has as many as `search.trials` says; print them and the best one.

    `overrides` are checked ones, and `hydra` is the node that they compose. Raises `UserErrors` before anything starts,
    and `JobFailed` at the end if a trial has failed.
    """
    _check_hydra(overrides, hydra)
    typed = [f"{name}={values}" for name, values in (hydra.sweeper.params or {}).items()]
    mistakes, ranges = check_overrides(typed, config_dirs, multirun=True)
    if mistakes:
        raise UserErrors(mistakes)
    space, fixed = space_of([*ranges, *overrides])
    if not space:
        preset = hydra.runtime.choices.get("hparams_search")
        field, value = ("hparams_search", preset) if preset else ("hydra/sweeper", "optuna")
        raise UserError(field, value, RANGE)
    try:
        from encdec_lightning.hparams_search.study import opened
    except ImportError as error:
        expected = "it needs the package optuna, pip install 'encdec_lightning[search]'"
        raise UserError("hydra/sweeper", "optuna", expected) from error
    config = _checked(space, fixed, config_dirs)
    folder = Path("runs", config.name, config.search.study)
    monitor, direction = config.task.monitor, config.task.monitor_mode
    assert direction is not None  # the checks say so
    facts = {"space": {each.name: each.described() for each in space}, "options": _flat(config.of_the_result())}
    with opened(folder, space, direction, facts, config.search) as study:
        work = _Work(space, fixed, config_dirs, monitor, direction, config.search)
        try:
            for trial in study.trials():
                work.do(study, trial)
        except (KeyboardInterrupt, Terminated):
            print("The search is interrupted; the same command goes on with it.", file=sys.stderr)
            raise
        _report(study, folder, work)


@dataclass(frozen=True)
class _Work:
    """What a trial needs to become a run."""

    space: Space
    fixed: Sequence[str]
    config_dirs: Sequence[Path]
    monitor: str
    direction: str
    options: Search

    def do(self, study: Study, trial: Trial) -> None:
        """Run a trial to its end, or until others do better, and tell the study."""
        told = ", ".join(each.told(trial.params[each.name]) for each in self.space)
        label = f"Trial {trial.number} of {max(self.options.trials, trial.number)}"
        print(f"{label}: {told}", file=sys.stderr)
        try:
            run = self._run(trial)
            trial.is_at(run.folder)
            value = self._train(run, trial)
        except Pruned:
            study.prune(trial)
            print(f"{label} is pruned: others did better.", file=sys.stderr)
        except Exception as error:
            why = str(run.status().get("error")) if isinstance(error, JobFailed) or not str(error) else reason(error)
            study.fail(trial, why)
            print(f"{label} failed: {why}", file=sys.stderr)
        else:
            study.finish(trial, value)
            best = study.best()
            so_far = "" if best is None else f"; the best so far is trial {best.number} with {best.value:.4g}"
            print(f"{label} has {self.monitor} {value:.4g}{so_far}.", file=sys.stderr)

    def overrides(self, params: dict[str, Value]) -> list[str]:
        """The trial's values as overrides."""
        return [each.override(params[each.name]) for each in self.space]

    def _run(self, trial: Trial) -> Run:
        if trial.folder is not None and Run(trial.folder).config_file.is_file():
            return Run.open(trial.folder)  # a precision that was decided on another machine stays
        params = dict(trial.params)
        overrides = self.overrides(params)
        config = compose_config([*self.fixed, *overrides], self.config_dirs, multirun=True)
        return make_run(config, point_label(overrides, ()))

    def _train(self, run: Run, trial: Trial) -> float:
        """The best of the run's validations; raises `Pruned` and what a start raises."""
        watch = _Watch(run, trial, self.monitor)
        if run.status().get("state") != "finished" and watch.unpromising():
            run.set_state("pruned")
            raise Pruned
        start(run, own_process=True, unpromising=watch.unpromising)
        watch.read()
        values = [value for value in watch.values if math.isfinite(value)]
        if not values:
            raise UserError("task.monitor", self.monitor, "no validation of the run has a number for it")
        return min(values) if self.direction == "min" else max(values)


class _Watch:
    """A run's validations, from its folder, handed on to its trial."""

    def __init__(self, run: Run, trial: Trial, monitor: str) -> None:
        self._run, self._trial, self._monitor = run, trial, monitor
        self.values: list[float] = []

    def unpromising(self) -> bool:
        """Hand on what is new, up to a validation after which the trial should not go on; whether there is one.

        What a verdict leaves unread does not depend on when it is asked for.
        """
        return any(verdict and more for verdict, more in self._new())

    def read(self) -> None:
        """Hand on what is new."""
        list(self._new())

    def _new(self) -> Iterator[tuple[bool, bool]]:
        """Of each new validation whether the trial should end after it, and whether more steps follow it."""
        from encdec_lightning.reporting.overview import progress
        from encdec_lightning.training.callbacks.heartbeat import validations

        found = list(validations(self._run.folder).items())
        steps = progress(self._run).get("steps")
        for step, scores in found[len(self.values) :]:
            self.values.append(scores.get(self._monitor, math.nan))
            if self._monitor in scores:
                verdict = self._trial.has_reached(len(self.values), self.values[-1])
                yield verdict, not isinstance(steps, int) or step < steps


def _check_hydra(overrides: Sequence[str], hydra: Any) -> None:
    """Raise `UserErrors` for what of Hydra does not act on a search."""
    found = []
    for line in overrides:
        name, _, value = line.lstrip("+~").partition("=")
        if name.startswith("hydra") and (name, value) != ("hydra/sweeper", "optuna"):
            found.append(UserError(name, value, "it has no effect on a search, which starts its trials itself"))
    for name in hydra.sweeper:
        if name not in ("_target_", "params"):
            expected = "Optuna's options stand below search., such as search.trials=20 search.sampler=tpe"
            found.append(UserError(f"hydra.sweeper.{name}", str(hydra.sweeper[name]), expected))
    if found:
        raise UserErrors(found)


def _checked(space: Space, fixed: Sequence[str], config_dirs: Sequence[Path]) -> Config:
    """The config with the first value of each dimension; raises `UserErrors` if it is wrong with an extreme value."""
    from encdec_lightning.launch.checks.checks import check_all

    first = {each.name: each.override(each.extremes[0]) for each in space}
    points = [first]
    points += [{**first, each.name: each.override(value)} for each in space for value in each.extremes[1:]]
    configs: list[Config] = []
    found: dict[str, UserError] = {}
    for point in points:
        try:
            config = compose_config([*fixed, *point.values()], config_dirs, multirun=True)
            problems = [*check_all(config), *refused(config, searched=True), *_lacking(config)]
            configs.append(config)
        except UserErrors as errors:
            problems = list(errors.problems)
        found |= {str(problem): problem for problem in problems}
    if found:
        raise UserErrors(found.values())
    return settle(configs[0])


def _lacking(config: Config) -> Iterator[UserError]:
    """What keeps a search from comparing runs of a config."""
    monitor, every, trainer = config.task.monitor, config.validate_every, config.trainer
    if config.folder is not None:
        yield UserError("folder", config.folder, "each trial needs a folder of its own: leave it away")
    if not monitor.startswith("val/"):
        yield UserError("task.monitor", monitor, "a search compares validations: it must be such as val/loss")
    if trainer.get("limit_val_batches") in (0, 0.0) and not trainer.get("overfit_batches"):
        yield UserError("trainer.limit_val_batches", 0, f"a search needs validations: it compares {monitor}")
    steps = trainer.get("max_steps", -1)
    if every is not None and isinstance(steps, int) and 0 <= steps < every:
        expected = f"a search needs a validation: it must be at most trainer.max_steps ({steps})"
        yield UserError("validate_every", every, expected)


def _report(study: Study, folder: Path, work: _Work) -> None:
    """Print the trials and how the best one is had again; raises `JobFailed` if one has failed."""
    from encdec_lightning.reporting.final_table import show
    from encdec_lightning.reporting.trials import show_trials, write_trials

    tried, best = study.tried(), study.best()
    command = "" if best is None else _command(best, work)
    write_trials(folder, tried, best, {"monitor": work.monitor, "command": command})
    if best is not None and best.folder is not None:
        show(Run.open(best.folder))
        print()
    show_trials(tried, best, work.monitor)
    if best is not None:
        anew = f"; this trains it anew:\n  {command}" if command else ""
        print(f"The best is trial {best.number}, {best.folder}{anew}")
    failed = [each for each in tried if each.state == "failed"]
    if failed:
        lines = [f"{each.folder or f'trial {each.number}'}: {each.error}" for each in failed]
        more = "the same command tries them again"
        raise JobFailed("\n".join([f"{len(failed)} of {len(tried)} trials failed, {more}:", *lines]))


def _command(best: Tried, work: _Work) -> str:
    """The command line of one run with a trial's values; empty where a preset of the search sets other options too."""
    folders = [word for each in work.config_dirs for word in ("--config-dir", str(each))]
    values = work.overrides(dict(best.params))
    alone = [line.lstrip("+") for line in work.fixed if not line.startswith((*CHOSEN, "search."))]
    composed = [compose_config([*given, *values], work.config_dirs, multirun=True) for given in (alone, work.fixed)]
    if composed[0].identity() != composed[1].identity():
        return ""
    return shlex.join(["encdec-train", *folders, *alone, *values])


def _flat(values: Node, path: str = "") -> Node:
    """{dotted path: value} of all leaves."""
    found: Node = {}
    for name, value in values.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found
