"""All that can be checked before a run's folder is made, in an order in which each check trusts those before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

from encdec_lightning.config import OPEN_SLOTS, Config, not_given
from encdec_lightning.errors import UserError
from encdec_lightning.launch.checks.model import check_model
from encdec_lightning.launch.checks.paths import check_files, check_names, check_places
from encdec_lightning.launch.command_line.draft import Draft
from encdec_lightning.launch.settle import contradictions, settle
from encdec_lightning.rules import concerned, problems

Purpose = Literal["train", "data", "model", "texts"]
"""What a command wants of a job: all of it, its texts as the model reads them, its model, or its texts as they are."""
NEEDED: dict[Purpose, tuple[str, ...]] = {
    "train": ("model", "task"),
    "data": ("model", "task"),
    "model": ("model",),
    "texts": ("task",),
}
"""The nodes that a purpose needs."""


def mistakes(made: Draft, purpose: Purpose, here: bool = True) -> Iterator[UserError]:
    """All that is wrong with what a command was given, and what its purpose needs beside it; the quick findings first.

    `here`: the job will run on this machine, which must have what it asks for.
    """
    yield from made.problems
    if made.problems and all(concerned([option], made.doubtful) for option in made.given):
        return  # nothing is left that could be checked, or miss anything
    yield from (not_given(path) for path in made.missing if concerned([path], NEEDED[purpose]))
    doubtful = set(made.doubtful)
    if purpose != "train" and not made.config.trainer.keys() & {"max_steps", "max_epochs"}:
        doubtful.add("training.schedule")  # the steps of a training need not be known
    if purpose == "model" and not concerned(["task"], made.given):
        doubtful.add("task")
    yield from _check(made.config, doubtful, here)


def check_all(config: Config, here: bool = True) -> list[UserError]:
    """Every problem of a config that shows without loading weights or all the data; `here` as for `mistakes`."""
    return list(_check(config, set(), here))


def _check(config: Config, doubtful: set[str], here: bool) -> Iterator[UserError]:
    """The problems, each check leaving out what reads an option that is doubtful, or found wrong by one before."""
    from encdec_lightning.launch.checks.constructors import rehearse
    from encdec_lightning.launch.checks.monitors import check_monitors
    from encdec_lightning.launch.job.quiet import quiet
    from encdec_lightning.launch.slots.places import leaving

    quiet()
    checks: tuple[Callable[[Config, set[str]], Iterable[UserError]], ...] = (
        *(_check_slots, check_model, check_names, check_monitors, contradictions, problems, check_files),
        *(check_places, lambda config, _: leaving(config), partial(rehearse, here=here)),
    )
    settled = settle(config)
    for check in checks:
        for problem in check(settled, doubtful):
            doubtful.add(problem.field)
            yield problem


def _check_slots(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    from encdec_lightning.launch.slots.build import CALLBACK, LOGGER, OPTIMIZER, TRAINER, argument_meant, check_slot

    for slot, base in zip(OPEN_SLOTS, (TRAINER, OPTIMIZER, CALLBACK, LOGGER), strict=True):
        node = getattr(config, slot)
        for name, each in {slot: node}.items() if slot in ("trainer", "optimizer") else node.items():
            field = slot if name == slot else f"{slot}.{name}"
            for problem in [] if each is None else check_slot(field, each, base):
                doubtful.add(argument_meant(problem, field, each, base))
                yield problem
