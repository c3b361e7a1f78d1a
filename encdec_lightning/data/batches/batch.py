"""`Batch`: what a model sees of some examples at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encdec_lightning.data.examples.examples import Examples
from encdec_lightning.records import Pair, same_may_be_set


class SpecialTokens(Protocol):
    """What of `Tokenizers` a batch needs."""

    start_id: int
    pad_id: int
    source_pad_id: int


@same_may_be_set
@dataclass(frozen=True)
class Batch:
    """B examples, padded on the right to S source and T target tokens. Masks come from lengths, never from ids.

    A rank that has no example when others have gets a batch of no examples: one row with a target of length 0, so that
    all ranks take part in every step.
    """

    pairs: tuple[Pair, ...]
    """The ids and texts of the examples; none in training, which does not need them."""
    examples: int
    """How many examples these are."""
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
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64), compare=False)
    """(B, 2): the two lengths of each example, in the processor's memory wherever the rest is."""
    target_positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), compare=False)
    """(N,) int64: the places of the real target tokens in the flattened batch. Nobody has to ask a GPU how many."""
    source_positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), compare=False)
    """The same of the real source tokens."""
    numbers: tuple[int, ...] = ()
    """The examples' places in their split, of those that have pairs."""

    def __post_init__(self) -> None:
        if not len(self.lengths):  # made of its tensors alone, which are the processor's
            lengths = torch.stack([self.source_lengths, self.target_lengths], dim=1).numpy()
            object.__setattr__(self, "lengths", lengths)
            object.__setattr__(self, "target_positions", self.target_mask.flatten().nonzero()[:, 0])
            object.__setattr__(self, "source_positions", self.source_mask.flatten().nonzero()[:, 0])

    @property
    def target_tokens(self) -> int:
        """Real target tokens."""
        return len(self.target_positions)

    @property
    def source_mask(self) -> Tensor:
        """(B, S) int64, 1 at real tokens."""
        return _mask(self.source_lengths, self.source_ids.shape[1])

    @property
    def target_mask(self) -> Tensor:
        """(B, T) bool, true at real tokens."""
        return _mask(self.target_lengths, self.target_ids.shape[1]).bool()

    def select(self, order: Tensor) -> Batch:
        """The same examples in another order, (B,) int64."""
        of_examples = ("source_ids", "source_lengths", "decoder_input_ids", "target_ids", "target_lengths")
        tensors = {name: getattr(self, name)[order] for name in of_examples}
        pairs = tuple(self.pairs[each] for each in order.tolist()) if self.pairs else ()
        numbers = tuple(self.numbers[each] for each in order.tolist()) if self.numbers else ()
        return replace(self, **tensors, pairs=pairs, numbers=numbers, lengths=np.zeros((0, 2), dtype=np.int64))

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Batch:
        """The same batch on another device; by default nobody waits for a copy to one that is not the processor.

        Lightning asks for that with plain tensors alone.
        """
        if non_blocking is None:
            non_blocking = torch.device(device).type not in ("cpu", "mps")
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can read while the processor goes on."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, made: Any) -> Batch:
        changed = {name: made(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **changed)


def collate(
    examples: Examples, indices: Iterable[int], tokens: SpecialTokens, update_tokens: int, with_pairs: bool = True
) -> Batch:
    """The batch of these examples."""
    numbers = [int(index) for index in indices]
    ids = [examples.ids(number) for number in numbers]
    sources, targets = [source for source, _ in ids], [target for _, target in ids]
    if not numbers:
        sources, targets = [np.array([tokens.source_pad_id])], [np.array([], dtype=np.int64)]
    target_ids = _padded(targets, tokens.pad_id)
    decoder_input_ids = target_ids.roll(1, dims=1)
    decoder_input_ids[:, 0] = tokens.start_id
    return Batch(
        pairs=tuple(examples.pair(number) for number in numbers) if with_pairs else (),
        examples=len(numbers),
        source_ids=_padded(sources, tokens.source_pad_id),
        source_lengths=torch.tensor([len(each) for each in sources]),
        decoder_input_ids=decoder_input_ids,
        target_ids=target_ids,
        target_lengths=torch.tensor([len(each) for each in targets]),
        update_tokens=update_tokens,
        tokens=sum(len(source) + len(target) for source, target in ids),
        numbers=tuple(numbers) if with_pairs else (),
    )


def _padded(rows: Sequence[NDArray[Any]], pad_id: int) -> Tensor:
    width = max(1, *(len(row) for row in rows)) if rows else 1
    padded = np.full((len(rows), width), pad_id, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()
