"""A search's trials in a file beside the runs; Optuna chooses their values. Nothing else here knows Optuna.

The file is Optuna's journal: lines of JSON, no database, whose locks many network file systems do not hold, and no
pickle. A sampler is made anew for each trial, with a seed of the trial's own: a search that was interrupted goes on as
it would have gone without.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from encdec_lightning.errors import UserError
from encdec_lightning.hparams_search.options import Search
from encdec_lightning.hparams_search.space import Dimension, Space, Value

JOURNAL = "journal.log"
INTERRUPTED = "it was interrupted"
State = Literal["finished", "pruned", "failed", "waiting"]
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "waiting",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Tried:
    """What became of a trial, in its last attempt."""

    number: int
    """From 1 on, in the order in which the trials were drawn."""
    state: State
    value: float | None
    """The best of its validations, of a pruned one the last; None where there is none."""
    validations: int
    params: Mapping[str, Value]
    folder: str | None
    error: str | None


@dataclass(frozen=True)
class Trial:
    """A trial that is under way."""

    number: int
    params: Mapping[str, Value]
    folder: str | None
    """Where an earlier attempt has begun."""
    asked: optuna.Trial

    def is_at(self, folder: Path) -> None:
        """Write down where its run is."""
        self.asked.set_user_attr("folder", str(folder))

    def has_reached(self, validation: int, value: float) -> bool:
        """Write down the value of a validation; whether the trial should end, since others do better."""
        self.asked.report(value, validation)
        return self.asked.should_prune()


class Study:
    """The trials of a search over a space. `opened` gives one."""

    def __init__(self, study: optuna.Study, space: Space, options: Search) -> None:
        self._study, self._options = study, options
        self._distributions = {each.name: _distribution(each) for each in space}

    def trials(self) -> Iterator[Trial]:
        """The trials that are left: those that were interrupted or failed before once more, then new ones."""
        for tried in self.tried():
            if tried.state == "failed":
                known = {"root": self._roots()[tried.number - 1], "folder": tried.folder}
                self._study.enqueue_trial(dict(tried.params), user_attrs=known)
        while self._study.get_trials(deepcopy=False, states=[TrialState.WAITING]) or self._drawn < self._options.trials:
            yield self._next()

    def finish(self, trial: Trial, value: float) -> None:
        """The trial has reached its end with this value."""
        self._study.tell(trial.asked, value)

    def prune(self, trial: Trial) -> None:
        """The trial has ended early, since others do better."""
        self._study.tell(trial.asked, state=TrialState.PRUNED)

    def fail(self, trial: Trial, error: str) -> None:
        """The trial has no value, for this reason."""
        trial.asked.set_user_attr("error", error)
        self._study.tell(trial.asked, state=TrialState.FAIL)

    def tried(self) -> list[Tried]:
        """What became of each trial."""
        attempts: dict[int, list[FrozenTrial]] = {}
        for each in self._all():
            attempts.setdefault(_root(each), []).append(each)
        return [_tried(number, of_one) for number, of_one in enumerate(attempts.values(), start=1)]

    def best(self) -> Tried | None:
        """The finished trial with the best value, the first of equals."""
        found = [each for each in self.tried() if each.state == "finished"]
        sign = 1 if self._study.direction == optuna.study.StudyDirection.MINIMIZE else -1
        return min(found, key=lambda each: sign * (each.value or 0.0), default=None)

    def end_interrupted(self) -> None:
        """Tell Optuna of trials whose process is gone; they come again."""
        for each in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(each.number, state=TrialState.FAIL)

    def _next(self) -> Trial:
        waiting = self._study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        number = self._roots().index(_root(waiting[0])) + 1 if waiting else self._drawn + 1
        self._study.sampler = _sampler(self._options, number)
        asked = self._study.ask(self._distributions)
        return Trial(number, asked.params, asked.user_attrs.get("folder"), asked)

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _roots(self) -> list[int]:
        """Optuna's numbers of the trials' first attempts."""
        return list(dict.fromkeys(map(_root, self._all())))

    @property
    def _drawn(self) -> int:
        return len(self._roots())


@contextmanager
def opened(folder: Path, space: Space, direction: str, facts: Mapping[str, Any], options: Search) -> Iterator[Study]:
    """The study in a folder, made where there is none; this process alone works on it until the block ends.

    `facts` is what its trials have in common, {name: plain value}. Raises `UserError` where it is another study's.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _alone(folder):
        _repair(folder / JOURNAL)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            direction="minimize" if direction == "min" else "maximize",
            pruner=_pruner(options),
            load_if_exists=True,
        )
        known = study.user_attrs.get("facts")
        if known is None:
            study.set_user_attr("facts", dict(facts))
        elif known != facts:
            raise UserError("search.study", options.study, f"{folder} holds a search {_other(known, facts)}")
        found = Study(study, space, options)
        found.end_interrupted()
        yield found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError("search.study", str(folder), f"nothing can be written into it ({error.strerror})") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            expected = "another process is working on this search, wait for its end"
            raise UserError("search.study", str(folder), expected) from error
        yield


def _repair(journal: Path) -> None:
    """Take away the lock of a process that was killed, and the part of a line at the end, which Optuna cannot read."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    with suppress(FileNotFoundError), journal.open("r+b") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)


def _other(known: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """How a study's facts differ from those that are given, as the end of a sentence."""
    kind = "space" if known.get("space") != facts.get("space") else "options"
    words = {"space": "over other values of", "options": "with another value of"}[kind]
    before, now = known.get(kind, {}), facts.get(kind, {})
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    listed = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
    return f"{words} {listed}; name another with search.study=<name>"


def _distribution(each: Dimension) -> BaseDistribution:
    if each.choices:
        return CategoricalDistribution(each.choices)
    if isinstance(each.low, int) and isinstance(each.high, int) and isinstance(each.step, int | None):
        return IntDistribution(each.low, each.high, log=each.log, step=each.step or 1)
    return FloatDistribution(each.low, each.high, log=each.log, step=each.step)


def _sampler(options: Search, number: int) -> optuna.samplers.BaseSampler:
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    if options.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)


def _pruner(options: Search) -> optuna.pruners.BasePruner:
    first = options.pruning_validations
    if options.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=options.pruning_trials, n_warmup_steps=first)
    if options.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first)
    return optuna.pruners.NopPruner()


def _root(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("root", trial.number))


def _tried(number: int, attempts: Sequence[FrozenTrial]) -> Tried:
    last = attempts[-1]
    params = max((each.params for each in attempts), key=len)  # one that was killed at once may lack some
    folder = next((each.user_attrs["folder"] for each in reversed(attempts) if each.user_attrs.get("folder")), None)
    state = STATES[last.state]
    error = last.user_attrs.get("error", INTERRUPTED) if state == "failed" else None
    value = last.value if state in ("finished", "pruned") else None
    return Tried(number, state, value, len(last.intermediate_values), params, folder, error)
