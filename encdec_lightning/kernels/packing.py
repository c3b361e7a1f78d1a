"""Examples side by side in one row, without padding: which rows belong together.

Linear layers, layer norms and dropout do not care whose token a token is; attention does, and works on groups of
examples of similar length, padded to the longest of each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from encdec_lightning.kernels.noise import DropoutBits

ANOTHER_GROUP = 16_000  # what a group costs beside its scores, in scores of one head
AT_ONCE = 1 << 21  # scores of a group, of all heads, which stay in the processor's cache and in memory used before
LANES = 32  # bf16 numbers of a vector register; torch's softmax of rows that do not fill them takes twice as long


@dataclass(frozen=True)
class Ragged:
    """The sequences of one group: `count` of them, N tokens together, the longest of `width`.

    Each token has `heads` vectors. Packed they are (N * heads, D) rows, padded (count, heads, width, D).
    """

    count: int
    width: int
    heads: int
    tokens: int
    to_padded: Tensor
    """(count * heads * width,): the packed row of each padded one, any row for padding."""
    to_packed: Tensor
    """(N * heads,): the padded row of each packed one."""
    padding: Tensor | None
    """The padded rows that are padding, (P,); None: there are none."""

    def pad(self, packed: Tensor, clean: bool = False) -> Tensor:
        """(N * heads, D) -> (count * heads, width, D); padding holds zeros if `clean`, else any of the values."""
        padded = packed.index_select(0, self.to_padded)
        if clean and self.padding is not None:
            padded.index_fill_(0, self.padding, 0)
        return padded.view(self.count * self.heads, self.width, -1)

    def unpad(self, padded: Tensor, out: Tensor) -> None:
        """(count * heads, width, D) -> (N * heads, D)."""
        torch.index_select(padded.reshape(-1, padded.shape[-1]), 0, self.to_packed, out=out)


@dataclass(frozen=True)
class Group:
    """Neighbours whose attention is computed at once."""

    queries: Ragged
    keys: Ragged
    hidden: Tensor | None
    """(count * heads, 1, keys.width), true at padding; None: there is none."""


@dataclass(frozen=True)
class Packing:
    """The lengths of the examples of a packed batch, in their order there."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    on_device: tuple[Tensor, Tensor] | None = field(default=None, compare=False)
    """The same lengths on a device that is not the processor, (B,) each."""
    bits: DropoutBits = field(default_factory=DropoutBits, compare=False)
    """Of the dropout in its forward pass."""
    _groups: dict[tuple[int, int, int], tuple[Group, ...]] = field(default_factory=dict, compare=False)

    @property
    def is_clear(self) -> bool:
        """Whether the number of tokens tells sources from targets."""
        return sum(self.source) != sum(self.target) and min(*self.source, *self.target) > 0

    def groups(self, queries: int, keys: int, heads: int) -> tuple[Group, ...]:
        """The groups for so many packed queries and keys, which tells whose they are."""
        if (queries, keys, heads) not in self._groups:
            lengths = {sum(self.source): self.source, sum(self.target): self.target}
            self._groups[queries, keys, heads] = tuple(_grouped(lengths[queries], lengths[keys], heads))
        return self._groups[queries, keys, heads]

    def starts(self, tokens: int) -> tuple[Tensor, int]:
        """Where each example starts in a row of so many tokens, and where the last ends, (B + 1,); the longest."""
        assert self.on_device is not None
        side = 0 if tokens == sum(self.source) else 1
        starts = functional.pad(self.on_device[side].cumsum(0), (1, 0))
        return starts.to(torch.int32), max((self.source, self.target)[side])


_active: ContextVar[Packing | None] = ContextVar("_active", default=None)
_anywhere: set[object] = set()
"""An object for each packed forward pass of the process, whichever thread runs it."""


def active() -> Packing | None:
    """The packing of the forward pass that is running.

    Dynamo cannot follow a context variable and need not, since compiled layers run no packed pass.
    """
    return _active.get() if _anywhere else None


@contextmanager
def packed(packing: Packing | None) -> Iterator[None]:
    """Within it, attention takes a single row for examples side by side; some families drop keyword arguments."""
    if packing is None:
        yield
        return
    token, this = _active.set(packing), object()
    _anywhere.add(this)
    try:
        yield
    finally:
        _anywhere.discard(this)
        _active.reset(token)


def _grouped(queries: Sequence[int], keys: Sequence[int], heads: int) -> Iterator[Group]:
    """Neighbours together for as long as their padding costs less than another group."""
    begin = 0
    while begin < len(queries):
        end, widest, deepest, real = begin, 0, 0, 0
        while end < len(queries):
            width = -(-keys[end] // LANES) * LANES
            widest, deepest = max(widest, queries[end]), max(deepest, width)
            real += queries[end] * width
            scores = (end + 1 - begin) * widest * deepest
            if scores - real > ANOTHER_GROUP or (heads * scores > AT_ONCE and end > begin):
                break
            end += 1
        ragged = _ragged(keys[begin:end], heads, LANES)
        hidden = None
        if ragged.padding is not None:
            ends = torch.tensor(keys[begin:end]).repeat_interleave(heads)
            hidden = torch.arange(ragged.width) >= ends[:, None, None]
        yield Group(_ragged(queries[begin:end], heads), ragged, hidden)
        begin = end


def _ragged(lengths: Sequence[int], heads: int, multiple: int = 1) -> Ragged:
    count, width, tokens = len(lengths), -(-max(lengths) // multiple) * multiple, sum(lengths)
    sizes = torch.tensor(lengths)
    first = sizes.cumsum(0) - sizes
    place = torch.arange(width).expand(count, width)
    real = place < sizes[:, None]  # (count, width)
    token = first[:, None] + place.minimum(sizes[:, None] - 1)
    head = torch.arange(heads)
    to_padded = token[:, None, :] * heads + head[:, None]  # (count, heads, width)
    padded = torch.arange(to_padded.numel()).view(count, heads, width).transpose(1, 2)  # (count, width, heads)
    padding = None if tokens == count * width else padded[~real].flatten()
    return Ragged(count, width, heads, tokens, to_padded.flatten(), padded[real].flatten(), padding)
