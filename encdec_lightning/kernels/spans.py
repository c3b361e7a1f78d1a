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


class Reading:
    """The spans of the keys (B, G, T, D) of cross-attention and of their values, in all layers, while none changes.

    The columns of a span do not lie side by side, and products would copy them at every step: they are copied once.
    """

    def __init__(self, keys: Collection[Tensor], of: tuple[Span, ...]) -> None:
        self._keys, self._spans = frozenset(each.data_ptr() for each in keys), of
        self._copies: dict[int, list[Tensor]] = {}

    def holds(self, key: Tensor) -> bool:
        """Whether these are such keys, handed on as they are."""
        return bool(self._spans) and key.data_ptr() in self._keys and self._spans[-1].end == len(key)

    def parts(self, stored: Tensor) -> list[tuple[Span, Tensor]]:
        """Each span of keys, or of their values, (rows, G, width, D)."""
        copies = self._copies.get(stored.data_ptr())
        if copies is None:
            copies = [stored[first:end, :, :width].contiguous() for first, end, width in self._spans]
            self._copies[stored.data_ptr()] = copies
        return list(zip(self._spans, copies, strict=True))


_active: ContextVar[Reading | None] = ContextVar("_active", default=None)


@contextmanager
def reading(what: Reading) -> Iterator[None]:
    """Within it, attention of a few queries to such keys reads their spans."""
    token = _active.set(what)
    try:
        yield
    finally:
        _active.reset(token)


def reading_of(key: Tensor) -> Reading | None:
    """How to read these keys; none: all of them."""
    found = _active.get()
    return found if found is not None and found.holds(key) else None
