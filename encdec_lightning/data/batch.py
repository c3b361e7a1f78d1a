"""`Batch`: what a model sees of some examples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.tokenization import Examples
from encdec_lightning.records import Pair


@dataclass(frozen=True)
class Batch:
    """B examples, padded on the right to S source and T target tokens. Masks come from lengths, never from ids."""

    pairs: tuple[Pair, ...]
    source_ids: Tensor
    """(B, S) int64."""
    source_lengths: Tensor
    """(B,) int64."""
    decoder_input_ids: Tensor
    """(B, T) int64: the start token, then the target without its last token."""
    target_ids: Tensor
    """(B, T) int64: the target with its end token."""
    target_lengths: Tensor
    """(B,) int64."""
    update_tokens: int
    """Target tokens of the whole optimizer step this batch belongs to, over all its micro-batches and ranks."""
    tokens: int
    """Real tokens of this batch, source and target."""

    @property
    def source_mask(self) -> Tensor:
        """(B, S) int64, 1 at real tokens."""
        return _mask(self.source_lengths, self.source_ids.shape[1])

    @property
    def target_mask(self) -> Tensor:
        """(B, T) bool, true at real tokens."""
        return _mask(self.target_lengths, self.target_ids.shape[1]).bool()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def collate(examples: Examples, indices: Sequence[int], tokenizers: Tokenizers, update_tokens: int) -> Batch:
    """The batch of these examples."""
    sources = [examples.sources[index] for index in indices]
    targets = [examples.targets[index] for index in indices]
    target_ids = _padded(targets, tokenizers.pad_id)
    decoder_input_ids = target_ids.roll(1, dims=1)
    decoder_input_ids[:, 0] = tokenizers.start_id
    return Batch(
        pairs=tuple(examples.pairs[index] for index in indices),
        source_ids=_padded(sources, tokenizers.source_pad_id),
        source_lengths=torch.tensor([len(ids) for ids in sources]),
        decoder_input_ids=decoder_input_ids,
        target_ids=target_ids,
        target_lengths=torch.tensor([len(ids) for ids in targets]),
        update_tokens=update_tokens,
        tokens=sum(map(len, sources)) + sum(map(len, targets)),
    )


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()
