"""Overrides with several values in, the space of a search out: `a,b`, `range(a,b)`, `tag(log,interval(a,b))`."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args

from encdec_lightning.config import NOT_OF_THE_RESULT, kind_of
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.hparams_search.space import Dimension
from encdec_lightning.launch.command_line.reading import check_size

FORMS = "a search takes a,b or range(a,b) or interval(a,b) or tag(log,interval(a,b))"


def space_of(overrides: Sequence[str]) -> tuple[list[Dimension], list[str]]:
    """The dimensions of a search, and the overrides of one value; of two for the same option the later one counts.

    The overrides are checked ones. Raises `UserErrors`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found: list[UserError] = []
    space: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    for line in overrides:
        key = line.partition("=")[0]
        name = key.lstrip("+~")
        check_size(name, line)
        override = OverridesParser.create().parse_override(line)
        space.pop(name, None)
        if not override.is_sweep_override():
            fixed[name] = line
            continue
        fixed.pop(name, None)
        try:
            if name.partition(".")[0] in NOT_OF_THE_RESULT:
                raise UserError(name, _given(line), "it must be one value: it changes no result")
            space[name] = _dimension(name, key, override)
        except UserError as error:
            found.append(error)
    if found:
        raise UserErrors(found)
    return list(space.values()), list(fixed.values())


def _given(line: str) -> str:
    return line.partition("=")[2]


def _dimension(name: str, key: str, override: Any) -> Dimension:
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    value, given = override.value(), _given(override.input_line)
    tags = set(getattr(value, "tags", ()))
    if isinstance(value, Glob):
        raise UserError(name, given, FORMS)
    if tags - {"log"} or (tags and not isinstance(value, IntervalSweep)):
        raise UserError(name, given, "a tag must be log, and belongs to an interval: tag(log,interval(a,b))")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        if not low < high:
            raise UserError(name, given, "its first number must be below its second")
        if tags and low <= 0:
            raise UserError(name, given, "a logarithmic interval must begin above 0")
        if _is_whole(name):
            if low != int(low) or high != int(high):
                raise UserError(name, given, "its ends must be whole numbers, as the option is")
            low, high = int(low), int(high)
        return Dimension(name, key, low=low, high=high, log=bool(tags))
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        if not numbers:
            raise UserError(name, given, "there is no number in it")
        return Dimension(name, key, low=min(numbers), high=max(numbers), step=abs(value.step))
    return Dimension(name, key, choices=tuple(dict.fromkeys(override.sweep_string_iterator())))


def _is_whole(name: str) -> bool:
    kind = kind_of(name)
    return kind is int or set(get_args(kind)) == {int, NoneType}
