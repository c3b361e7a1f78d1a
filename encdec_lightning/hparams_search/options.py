"""The options of a search over values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from encdec_lightning.errors import require

STUDY = "it must be a name of letters, digits, -, _ and ."


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search that learns from the points it has tried, `hparams_search=optuna`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    trials: int = 20
    """Points that are tried in all. This option and those below act with `hparams_search=optuna`; a larger number
    extends a study that has ended."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Who chooses the values of the next point: Optuna's tree-structured Parzen estimator, or chance."""
    startup_trials: int = 10
    """Points that `tpe` draws at random before it learns from them."""
    seed: int = 0
    """Seed of the sampler."""
    pruner: Literal["median", "halving", "none"] = "median"
    """Which points end early: those worse than the median of the others after as many validations, those not among the
    best quarter at each of a few validations (successive halving), or none."""
    pruning_trials: int = 5
    """Points that `median` must have finished before it ends one."""
    pruning_validations: int = 1
    """Validations that a point has before it may end early."""
    study: str = "study"
    """Name of the search's folder in `runs/<name>/`; there the same command goes on."""

    def __post_init__(self) -> None:
        at_least_one = ("trials", "startup_trials", "pruning_trials", "pruning_validations")
        numbers = [(name, getattr(self, name)) for name in at_least_one]
        require(
            *((name, each, each >= 1, "it must be at least 1") for name, each in numbers),
            ("seed", self.seed, 0 <= self.seed < 2**32, "it must lie in [0, 2^32)"),
            ("study", self.study, re.fullmatch(r"\w[\w.-]{0,99}", self.study) is not None, STUDY),
        )
