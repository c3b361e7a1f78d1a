"""Which columns of a table a terminal has room for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

NARROW = 12
"""Characters of a column of texts, if it has as many: longer texts are folded."""

BETWEEN = 2
"""Characters of a column's padding and of the line beside it, which the tables leave empty (rich's SIMPLE_HEAD)."""


def left_out(least: Sequence[int], may_go: Sequence[int], width: int) -> list[int]:
    """The places of the columns to leave out so that the others fit into `width` characters, as far as that helps.

    `least` are the characters that each column needs; `may_go` the places of those
    that may be left out, the first one first.
    """
    hidden: list[int] = []
    for place in may_go:
        if sum(each + BETWEEN for at, each in enumerate(least) if at not in hidden) <= width:
            break
        hidden.append(place)
    return sorted(hidden)


def least_telling_first(columns: Sequence[Sequence[Hashable]]) -> list[int]:
    """The numbers of columns, those with the fewest different values first, of equal ones the last one first."""
    return sorted(range(len(columns)), key=lambda number: (len({*columns[number]}), -number))
