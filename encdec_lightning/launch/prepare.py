"""All that can be checked before a run's folder is made: the pair, the positions, the files, the slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from encdec_lightning.config import OPEN_SLOTS, Config, not_given
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import is_file_name, kind_of
from encdec_lightning.launch.draft import Draft
from encdec_lightning.launch.precision import with_precision
from encdec_lightning.launch.processes import recover
from encdec_lightning.launch.settle import contradictions, say_what_is_tested, settle
from encdec_lightning.rules import concerned, problems
from encdec_lightning.run import Run

if TYPE_CHECKING:
    from encdec_lightning.composition.composed_model import ComposedModel

Purpose = Literal["train", "data", "model"]
"""What a command wants of a job: all of it, its texts as the model reads them, or its model."""


def prepare(config: Config, in_sweep: bool = False, checked: bool = False) -> Run:
    """The run of a config, checked unless it is so already, settled, its folder made, its config frozen.

    Raises `UserErrors`.
    """
    found = [] if checked else check_all(config)
    if found:
        raise UserErrors(found)
    asked, config = config, settle(config)
    say_what_is_tested(asked, config)
    config = with_precision(config)
    identity = config.identity()
    last = identity[:12] if in_sweep else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder = Path(config.folder) if config.folder is not None else Path("runs", config.name, last)
    if kind_of(Run(folder).config_file) == "file":
        recover(Run(folder))
    return Run.create(folder, asdict(config), identity)


def mistakes(made: Draft, purpose: Purpose, here: bool = True) -> Iterator[UserError]:
    """All that is wrong with what a command was given, and what its purpose needs beside it; the quick findings first.

    `here`: the job will run on this machine, which must have what it asks for.
    """
    yield from made.problems
    if made.problems and all(concerned([option], made.doubtful) for option in made.given):
        return  # nothing is left that could be checked, or miss anything
    needed = ("model", "task") if purpose != "model" else ("model",)
    yield from (not_given(path) for path in made.missing if concerned([path], needed))
    doubtful = set(made.doubtful)
    if purpose != "train" and not made.config.trainer.keys() & {"max_steps", "max_epochs"}:
        doubtful.add("training.schedule")  # the steps of a training need not be known
    if purpose == "model" and not concerned(["task"], made.given):
        doubtful.add("task")
    yield from _check(made.config, doubtful, here)


def check_all(config: Config) -> list[UserError]:
    """Every problem of a config that shows without loading weights or all the data."""
    return list(_check(config, set(), here=True))


def _check(config: Config, doubtful: set[str], here: bool) -> Iterator[UserError]:
    """The problems, each check leaving out what reads an option that is doubtful, or found wrong by one before."""
    from encdec_lightning.launch.job import quiet
    from encdec_lightning.launch.places import leaving
    from encdec_lightning.launch.rehearsal import rehearse
    from encdec_lightning.launch.watched import check_monitors

    quiet()
    checks: tuple[Callable[[Config, set[str]], Iterable[UserError]], ...] = (
        *(_check_slots, _check_model, _check_names, check_monitors, contradictions, problems, _check_files),
        *(_check_places, lambda config, _: leaving(config), partial(rehearse, here=here)),
    )
    settled = settle(config)
    for check in checks:
        for problem in check(settled, doubtful):
            doubtful.add(problem.field)
            yield problem


def _check_slots(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    from encdec_lightning.launch.build import argument_meant, check_slot
    from encdec_lightning.launch.job import CALLBACK, LOGGER, OPTIMIZER, TRAINER

    for slot, base in zip(OPEN_SLOTS, (TRAINER, OPTIMIZER, CALLBACK, LOGGER), strict=True):
        node = getattr(config, slot)
        for name, each in {slot: node}.items() if slot in ("trainer", "optimizer") else node.items():
            field = slot if name == slot else f"{slot}.{name}"
            for problem in [] if each is None else check_slot(field, each, base):
                doubtful.add(argument_meant(problem, field, each, base))
                yield problem


def _check_model(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    from encdec_lightning.composition.checks.lengths import generation_problem, length_problems
    from encdec_lightning.composition.checks.skeleton import skeleton
    from encdec_lightning.composition.sides.config import side_config

    if concerned(["model"], doubtful):
        return
    try:
        model = skeleton(config.model)
    except UserError as problem:
        yield problem.inside("model")
        return
    except UserErrors as errors:
        yield from (problem.inside("model") for problem in errors.problems)
        return
    task, generated = config.task, config.generation.max_length
    sides = [side_config(side) for side in config.model.sides]
    yield from _check_tokenizers(config, model)
    if not concerned(["training.freeze"], doubtful):
        yield from _check_freeze(config, model)
    lengths = ["task.max_source_length", "task.max_target_length"]
    if not concerned(lengths, doubtful):
        longer = length_problems(config.model, sides, task.max_source_length, task.max_target_length)
        yield from (UserError(f"task.max_{side}_length", length, why) for side, length, why in longer)
    decisive = ["generation.max_length", *(lengths[:1] if model.reads_prefix else [])]
    if generated is not None and not concerned(decisive, doubtful):
        why = generation_problem(config.model, sides, task.max_source_length, generated)
        if why is not None:
            yield UserError("generation.max_length", generated, why)


def _check_tokenizers(config: Config, model: ComposedModel) -> list[UserError]:
    """Whether the tokenizers fit the vocabularies, where both are folders; others are checked once they are loaded."""
    from encdec_lightning.composition.tokenizers import Tokenizers

    if not all(Path(each).is_dir() for each in config.model.vocabularies):
        return []
    try:
        found = Tokenizers.from_pretrained(*config.model.vocabularies).problems(model)
    except UserError as problem:
        found = [problem]
    return [problem.inside("model") for problem in found]


def _check_freeze(config: Config, model: ComposedModel) -> list[UserError]:
    from encdec_lightning.training.freezing import freeze

    try:
        freeze(model, config.training.freeze)
    except UserError as problem:
        return [problem]
    return []


def _check_files(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """Problems of each data file as far as its first row shows them."""
    from encdec_lightning.cache.folder import cache_folder
    from encdec_lightning.data.sources.pairs import SPLITS
    from encdec_lightning.data.sources.source import check_source

    task = config.task
    if concerned(["task.preprocess", "task.test_preprocess"], doubtful):
        task = replace(task, preprocess=None, test_preprocess=None)  # there are no such functions
    reads = [*(f"task.{name}" for name in ("source", "target", "id", "columns")), "data.cache", "data.on_bad_row"]
    before = set(doubtful)  # a column that no file has is said of each
    for split in SPLITS:
        if split == "test" and task.test is None and task.test_preprocess is None:
            continue  # the same pairs as for validation
        own = "task.validation" if split == "test" and task.test is None else f"task.{split}"
        if concerned([own, *reads], before):
            continue
        try:
            check_source(task, split, cache_folder(config.data.cache), config.data.on_bad_row == "skip")
        except UserError as problem:
            yield problem
        except OSError as error:
            yield UserError(own, task.path(split), f"it cannot be read ({error.strerror})")


def _check_names(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """Metrics, baselines and preprocessing functions that do not exist."""
    from encdec_lightning.data.preprocessing import preprocessing
    from encdec_lightning.evaluation.baselines import baseline
    from encdec_lightning.evaluation.metric import load_metric

    names: list[tuple[str, Callable[[str], object]]] = [
        ("metrics", load_metric),
        ("baselines", baseline),
        ("preprocess", partial(preprocessing, "task.preprocess")),
        ("test_preprocess", partial(preprocessing, "task.test_preprocess")),
    ]
    for option, look_up in names:
        for name in getattr(config.task, option) or []:
            try:
                look_up(name)
            except UserError as problem:
                yield problem


def _check_places(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """The checkpoint and the run to start from, and whether the run's own folder can be one."""
    places: dict[str, Callable[[str], object]] = {
        "checkpoint": _check_checkpoint,
        "init_from": lambda folder: Run.open(folder, "init_from").best_or_last(),
        "folder": _check_folder,
    }
    for option, check in places.items():
        value = getattr(config, option)
        try:
            _ = value is None or check(value)
        except UserError as problem:
            yield problem
        except OSError as error:
            yield UserError(option, value, f"there can be no such place ({error.strerror})")


def _check_folder(folder: str) -> None:
    if not all(is_file_name(part) or part in ("/", "..") for part in Path(folder).parts):
        raise UserError("folder", folder, "it must be a path of printable names, of 200 bytes at most each")
    Run.check_place(folder)


def _check_checkpoint(choice: str) -> None:
    if choice not in ("best", "last") and not Path(choice).exists():
        raise UserError("checkpoint", choice, "it must be best, last or the path of a checkpoint")
