"""What a run is called in a dashboard: its name, its group, and the facts by which one looks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from encdec_lightning.config import Config
from encdec_lightning.reporting.overview import option_text, short_names
from encdec_lightning.run import Run


def point_label(overrides: Sequence[str], fixed: Sequence[str]) -> str:
    """What sets a point of a sweep apart, `seed=1, weights=tied`: its overrides without those of all points."""
    same = {_name(line) for line in fixed}
    own = {_name(line): line.partition("=")[2] for line in overrides if _name(line) not in same}
    return ", ".join(f"{name}={option_text(own[path])}" for name, path in zip(short_names([*own]), own, strict=True))


def labels(run: Run, config: Config) -> dict[str, Any]:
    """Arguments of loggers: `name`, `group` and `facts`, {what: value} of encoder, decoder, weights, task and seed.

    A point of a sweep is called by what sets it apart, and its group is the sweep. Another run is called by its name,
    or by its folder's first name where it has none.
    """
    from encdec_lightning.reporting.card import Data  # which loads torch; a sweep asks for its points' labels before

    point = run.status().get("point")
    own = config.name if config.name != Config.name else run.id.split("-", 2)[-1]
    sides: dict[str, str] = {
        side.role: PurePath(side.checkpoint).name.rpartition("--")[2] for side in config.model.sides
    }
    facts = {
        **sides,
        "weights": config.model.weights,
        "task": Data.of(config.task.train).name,
        "seed": str(config.seed),
    }
    return {"name": point or own, "group": None if point is None else config.name, "facts": facts}


@dataclass(frozen=True)
class Table:
    """A table to show beside the curves."""

    columns: Sequence[str]
    data: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Table:
        """The table of plain values."""
        return cls(value["columns"], value["data"])


def _name(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
