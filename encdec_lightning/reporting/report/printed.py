"""The paper's own figures for rows that are models of the paper, on tasks of the paper."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from encdec_lightning.composition.families import shipped_config
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.paper import ROWS, paper_row
from encdec_lightning.errors import UserError, UserErrors, did_you_mean, one_of
from encdec_lightning.reporting.overview import Overview
from encdec_lightning.reporting.report.rows import Section

SOURCE = "Rothe, Narayan & Severyn (2020), table {}"
VARIANT = (
    *("model.encoder", "model.decoder", "model.weights", "model.encoder_init", "model.decoder_init"),
    "model.encoder_vocabulary",
)
"""Options that a variant decides."""
SIZES = {(12, 768): "", (24, 1024): "_24"}
"""Layers and width of the paper's models: what its rows are called beyond the variant."""


@dataclass(frozen=True)
class Printed:
    """A table of the paper, as far as it is about one task."""

    task: str
    table: int
    test: str
    source: str
    scores: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    share: float = 1.0


@functools.cache
def printed_tables() -> dict[str, Printed]:
    """{task: what the paper prints for it}."""
    content = yaml.safe_load(Path(__file__).with_name("printed_scores.yaml").read_text(encoding="utf-8"))
    return {
        task: Printed(
            task=task,
            **{name: value for name, value in told.items() if name not in ("rows", "scores")},
            scores=tuple(told["scores"]),
            rows={name: tuple(values) for name, values in told["rows"].items()},
        )
        for task, told in content.items()
    }


def add_printed(section: Section, task: str | None = None, ordered: bool = False) -> None:
    """Put the paper's figures into a section, and rows that are all the paper's variants into its order.

    The rows stay where they are if they are `ordered` already.
    Without a task, to those rows whose test set, share of the training pairs, variant and size are the paper's; with
    one, the figures for it, to whatever is a variant of the paper. Raises `UserError` for a task that the paper does
    not have.
    """
    tables = printed_tables()
    if task is not None and task not in tables:
        raise UserError("--paper", task, f"{one_of(tables)}{did_you_mean(task, tables)}")
    variants = [variant_of(row.runs[0]) if row.runs else None for row in section.rows]
    known = [each for each in variants if each is not None]
    if known and len({*known}) == len([row for row in section.rows if row.runs]):
        _name_variants(section, variants)
        places = (
            [*range(len(variants))] if ordered else sorted(range(len(variants)), key=lambda at: _order(variants[at]))
        )
        section.rows, variants = [section.rows[at] for at in places], [variants[at] for at in places]
    for number, (row, variant) in enumerate(zip(section.rows, variants, strict=True)):
        if variant is None:
            continue
        options = row.runs[0].options
        table = tables[task] if task is not None else table_of(options)
        if table is None:
            continue
        name = f"{variant}{'' if task is not None else size_of(options)}"
        if name not in table.rows:  # the size is none of the paper's
            continue
        section.printed_from = SOURCE.format(table.table)
        for score, value in zip(table.scores, table.rows[name], strict=True):
            if score in section.scores:
                section.printed[number, score] = value


def _name_variants(section: Section, variants: Sequence[str | None]) -> None:
    """Put one column, the variant, in the place of the options that make it."""
    kept = [number for number, name in enumerate(section.options) if name not in VARIANT]
    if len(kept) == len(section.options):
        return
    section.options = ["variant", *(section.options[number] for number in kept)]
    section.rows = [
        replace(row, options=(variant or "", *(row.options[number] for number in kept)))
        for row, variant in zip(section.rows, variants, strict=True)
    ]


def _order(variant: str | None) -> int:
    """Where a row stands in table 1; baselines before all."""
    return -1 if variant is None else ROWS.index(variant)


def table_of(options: Mapping[str, Any]) -> Printed | None:
    """The table of a run's task, by its test set, its source and its share of the training pairs."""
    test = options.get("task.test") or options.get("task.validation")
    told = (test, options.get("task.source"), float(options.get("task.train_share", 1.0)))
    return next((each for each in printed_tables().values() if (each.test, each.source, each.share) == told), None)


def variant_of(each: Overview) -> str | None:
    """Which row of the paper's a run is, whatever its size; nothing is fetched to find that out.

    None also where a checkpoint can no longer be read: the run's own results are as they were.
    """
    composition = _composition(each.options)
    if composition is None:
        return None
    try:
        row = paper_row(composition)
    except (UserError, UserErrors):
        return None
    return None if row is None else row.variant


def size_of(options: Mapping[str, Any]) -> str | None:
    """What the paper calls models of a run's size, beyond their variant; None for a size that it does not have."""
    composition = _composition(options)
    if composition is None:
        return None
    from encdec_lightning.composition.sides.config import side_config

    try:
        configs = [side_config(side) for side in composition.sides]
    except (UserError, UserErrors):
        return None
    sizes = {(config.num_hidden_layers, config.hidden_size) for config in configs}
    return SIZES.get(sizes.pop()) if len(sizes) == 1 else None


def _composition(options: Mapping[str, Any]) -> Composition | None:
    given = {name.removeprefix("model."): value for name, value in options.items() if name.startswith("model.")}
    try:
        composition = Composition(**given)
    except (TypeError, UserError, UserErrors):
        return None
    checkpoints = [each for each in (composition.encoder, composition.decoder) if each is not None]
    at_hand = all(Path(each).is_dir() or shipped_config(each) is not None for each in checkpoints)
    return composition if at_hand else None
