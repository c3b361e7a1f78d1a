"""All that can be checked before a run's folder is made: the pair, the positions, the files, the slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.files import kind_of
from encdec_lightning.launch.places import leaving
from encdec_lightning.launch.precision import with_precision
from encdec_lightning.launch.processes import recover
from encdec_lightning.launch.settle import contradictions, say_what_is_tested, settle
from encdec_lightning.run import Run

if TYPE_CHECKING:
    from encdec_lightning.composition.compatibility import ComposedModel


def prepare(config: Config, in_sweep: bool = False) -> Run:
    """The run of a config, settled and checked, its folder made and its config frozen; raises `UserErrors`."""
    asked, config = config, settle(config)
    found = check_all(config)
    if found:
        raise UserErrors(found)
    say_what_is_tested(asked, config)
    config = with_precision(config)
    identity = config.identity()
    last = identity[:12] if in_sweep else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder = Path(config.folder) if config.folder is not None else Path("runs", config.name, last)
    if kind_of(Run(folder).config_file) == "file":
        recover(Run(folder))
    return Run.create(folder, asdict(config), identity)


def check_all(config: Config) -> list[UserError]:
    """Every problem of a config that shows without loading weights or all the data."""
    from encdec_lightning.launch.job import quiet

    quiet()
    found = [*_check_model(config), *_check_files(config), *_check_slots(config), *_check_names(config)]
    return [*found, *contradictions(config), *leaving(config)]


def _check_model(config: Config) -> list[UserError]:
    from encdec_lightning.composition.compatibility import length_problems, skeleton
    from encdec_lightning.composition.initialization import side_config

    try:
        model = skeleton(config.model)
    except UserError as problem:
        return [problem.inside("model")]
    except UserErrors as errors:
        return [problem.inside("model") for problem in errors.problems]
    task, generated = config.task, config.generation.max_length
    sides = [side_config(side) for side in config.model.sides]
    found = [*_check_tokenizers(config, model), *_check_freeze(config, model)]
    found += [
        UserError(f"task.max_{side}_length", length, expected)
        for side, length, expected in length_problems(
            config.model, sides, task.max_source_length, task.max_target_length
        )
    ]
    if generated is not None:
        longer = length_problems(config.model, sides, task.max_source_length, generated)
        alone = len(sides) == 1
        found += [
            UserError("generation.max_length", generated, expected)
            for side, _, expected in longer
            if alone or side == "target"
        ]
    return found


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


def _check_files(config: Config) -> list[UserError]:
    """Problems of each data file as far as its first row shows them."""
    from encdec_lightning.cache import cache_folder
    from encdec_lightning.data.pairs import SPLITS
    from encdec_lightning.data.sources import check_source

    found: list[UserError] = []
    task = config.task
    for split in SPLITS:
        if split == "test" and task.test is None and task.test_preprocess is None:
            continue  # the same pairs as for validation
        try:
            check_source(config.task, split, cache_folder(config.data.cache), config.data.on_bad_row == "skip")
        except UserError as problem:
            unknown_function = problem.field in ("task.preprocess", "task.test_preprocess")
            if not unknown_function:  # `_check_names` says so, once
                found.append(problem)
    return found


def _check_slots(config: Config) -> list[UserError]:
    from encdec_lightning.launch.build import check_slot
    from encdec_lightning.launch.job import CALLBACK, LOGGER, OPTIMIZER, TRAINER

    found = [*check_slot("trainer", config.trainer, TRAINER), *check_slot("optimizer", config.optimizer, OPTIMIZER)]
    for group, base in (("callbacks", CALLBACK), ("logger", LOGGER)):
        for name, node in getattr(config, group).items():
            if node is not None:
                found += check_slot(f"{group}.{name}", node, base)
    return found


def _check_names(config: Config) -> list[UserError]:
    """Metrics, baselines and preprocessing functions that do not exist, and the run to start from."""
    from encdec_lightning.data.preprocessing import preprocessing
    from encdec_lightning.evaluation.baselines import baseline
    from encdec_lightning.evaluation.metric import load_metric

    found: list[UserError] = []
    names: list[tuple[Callable[[str], object], list[str] | None]] = [
        (load_metric, config.task.metrics),
        (baseline, config.task.baselines),
        (partial(preprocessing, "task.preprocess"), config.task.preprocess),
        (partial(preprocessing, "task.test_preprocess"), config.task.test_preprocess),
    ]
    for look_up, wanted in names:
        for name in wanted or []:
            try:
                look_up(name)
            except UserError as problem:
                found.append(problem)
    if config.checkpoint not in ("best", "last") and not Path(config.checkpoint).exists():
        found.append(UserError("checkpoint", config.checkpoint, "it must be best, last or the path of a checkpoint"))
    if config.init_from is not None:
        try:
            Run.open(config.init_from, "init_from").best_or_last()
        except UserError as problem:
            found.append(problem)
    return found
