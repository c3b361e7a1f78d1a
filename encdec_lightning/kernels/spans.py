"""Rows of keys of different lengths, in a step of generation: how many columns of each row are worth reading."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

ANOTHER_SPAN = 600  # what one more product costs, in columns of a row that need not be read


class Span(NamedTuple):
    """Rows `first` to `end` of the keys, whose first `width` columns hold all that is not hidden."""

    first: int
    end: int
    width: int


_active: ContextVar[tuple[frozenset[int], tuple[Span, ...]]] = ContextVar("_active", default=(frozenset(), ()))


def spans(widths: Sequence[int]) -> tuple[Span, ...]:
    """Neighbours together for as long as the columns read in vain cost less than another span."""
    found: list[Span] = []
    first, widest, real = 0, 0, 0
    for row, width in enumerate(widths):
        widest, real = max(widest, width), real + width
        if row > first and widest * (row + 1 - first) - real > ANOTHER_SPAN:
            found.append(Span(first, row, max(widths[first:row])))
            first, widest, real = row, width, width
    return (*found, Span(first, len(widths), widest)) if widths else ()


@contextmanager
def reading(keys: Collection[Tensor], of: tuple[Span, ...]) -> Iterator[None]:
    """Within it, attention to any of these keys (B, G, T, D), handed on as they are, reads these spans of them."""
    token = _active.set((frozenset(each.data_ptr() for each in keys), of))
    try:
        yield
    finally:
        _active.reset(token)


def spans_of(key: Tensor) -> tuple[Span, ...]:
    """The spans to read of keys, none where all of them are read."""
    known, found = _active.get()
    return found if len(found) > 1 and key.data_ptr() in known and found[-1].end == len(key) else ()
