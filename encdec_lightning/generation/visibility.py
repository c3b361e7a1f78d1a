"""Which columns of the cache each beam sees: what is added to the scores of attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class Visibility:
    """Tables for N sources with K beams each: 0 where a column is seen, else the dtype's lowest number.

    Columns are those of `SharedCache`: a source's are the first ones beside an encoder; the last ones, before the start
    token, where it is read as a prefix.
    """

    def __init__(
        self, sources: int, beams: int, columns: int, is_prefix: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Of the targets' columns, K each step, there are so many; of the sources' as many as the longest needs."""
        self._is_prefix, self._lowest = is_prefix, torch.finfo(dtype).min
        self.widths = [0] * sources
        """Columns of the source in each place."""
        self._lengths = torch.zeros(sources, dtype=torch.long, device=device)
        self._of_source = torch.zeros(sources, 0, dtype=dtype, device=device)
        self._of_target = torch.zeros(sources, beams, columns, dtype=dtype, device=device)

    def admit(self, places: Sequence[int], lengths: Sequence[int], mask: Tensor) -> None:
        """New sources of these lengths take the places, `mask` (M, W) being true at their tokens.

        Of the target each beam sees the start token.
        """
        width = mask.shape[1]
        at = torch.tensor(places, device=mask.device)
        missing = max(0, width - self._of_source.shape[1])
        added = (missing, 0) if self._is_prefix else (0, missing)
        self._of_source = functional.pad(self._of_source, added, value=self._lowest)
        columns = slice(self._of_source.shape[1] - width, None) if self._is_prefix else slice(0, width)
        self._of_source[at] = self._lowest
        self._of_source[at, columns] = self._lowest * (~mask).to(self._of_source.dtype)
        self._of_target[at] = self._lowest
        self._of_target[at, :, 0] = 0
        self._lengths[at] = torch.tensor(lengths, device=mask.device)
        for place, length in zip(places, lengths, strict=True):  # a prefix is padded before its start token
            self.widths[place] = width if self._is_prefix else length

    def lengths(self, active: int) -> Tensor:
        """(n, 1): tokens of the first n sources."""
        return self._lengths[:active, None]

    def of_source(self, active: int) -> Tensor:
        """(n, W): for the columns of the longest of the first n sources."""
        width = max(self.widths[:active])
        first = self._of_source.shape[1] - width if self._is_prefix else 0
        return self._of_source[:active, first : first + width]

    def of_target(self, written: Tensor, columns: int) -> Tensor:
        """(n, K, columns): for the targets' first columns, once each beam sees the one written at this step, (n, K)."""
        self._of_target[: len(written)].scatter_(2, written[..., None], 0)
        return self._of_target[: len(written), :, :columns]

    def reorder(self, parents: Tensor) -> None:
        """Beam k of each of the first n sources goes on from what was beam `parents[:, k]`, (n, K)."""
        seen = self._of_target[: len(parents)]
        seen.copy_(seen.gather(1, parents[..., None].expand_as(seen)))

    def move(self, into: Sequence[int], out_of: Sequence[int]) -> None:
        """The sources of some places go into others, whose own are done."""
        to, of = (torch.tensor(each, device=self._lengths.device) for each in (into, out_of))
        for table in (self._lengths, self._of_source, self._of_target):
            table[to] = table[of]
        for place, other in zip(into, out_of, strict=True):
            self.widths[place] = self.widths[other]
