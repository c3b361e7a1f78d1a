"""Whether the files, folders and functions that a config names are there and can be what they are named for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from encdec_lightning.config import Config
from encdec_lightning.errors import UserError
from encdec_lightning.files import damage, is_file_name, kind_of
from encdec_lightning.rules import concerned
from encdec_lightning.run import Run


def check_files(config: Config, doubtful: set[str]) -> Iterator[UserError]:
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


def check_names(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """Metrics, baselines and preprocessing functions that do not exist."""
    from encdec_lightning.data.preprocessing import preprocessing
    from encdec_lightning.evaluation.baselines import baseline
    from encdec_lightning.evaluation.registry import check_metrics

    names: list[tuple[str, Callable[[str], object]]] = [
        ("baselines", baseline),
        ("preprocess", partial(preprocessing, "task.preprocess")),
        ("test_preprocess", partial(preprocessing, "task.test_preprocess")),
    ]
    yield from check_metrics(config.task.scored_with)
    for option, look_up in names:
        for name in getattr(config.task, option) or []:
            try:
                look_up(name)
            except UserError as problem:
                yield problem


def check_places(config: Config, doubtful: set[str]) -> Iterator[UserError]:
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
    if choice in ("best", "last"):
        return
    if kind_of(choice) is None:
        raise UserError("checkpoint", choice, "it must be best, last or the path of a checkpoint")
    wrong = damage(choice)
    if wrong is not None:
        raise UserError("checkpoint", choice, f"{wrong}; give best, last or the path of a checkpoint")
