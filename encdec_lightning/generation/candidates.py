"""The best next tokens of each row, without log-probabilities of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encdec_lightning.kernels.packed_linear import packed_linear, packs

PIECE = 2048  # tokens of the vocabulary at a time: some hundred rows of them stay in the processor's cache
GROUPS = 64  # of a piece, of which only those that hold a large logit are looked into

Forbid = Callable[[Tensor, int], None]
"""Sets to -inf, in a piece of logits (R, C) that starts at a token, what must not come next."""


@dataclass(frozen=True)
class Candidates:
    """The k likeliest next tokens of R rows, likeliest first."""

    logits: Tensor
    """(R, k) float32; -inf where fewer than k tokens are allowed."""
    tokens: Tensor
    """(R, k) int64."""
    normalizer: Tensor | None
    """(R,) float32: the logarithm of the sum over the vocabulary of exponentials, before anything was forbidden."""

    @property
    def log_probabilities(self) -> Tensor:
        """(R, k) float32."""
        assert self.normalizer is not None
        return self.logits - self.normalizer[:, None]


class Head:
    """The LM head's product, R rows at a time, in pieces of the vocabulary that are reduced while they are in cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Weight (V, H) and bias (V,) or none."""
        self.weight, self.bias = weight, bias
        self._room = weight.new_empty(0)
        self._packed: list[Callable[[Tensor], Tensor]] = []
        if packs(weight):
            parts = [slice(start, start + PIECE) for start in range(0, len(weight), PIECE)]
            self._packed = [packed_linear(weight[part], None if bias is None else bias[part]) for part in parts]

    @property
    def vocabulary(self) -> int:
        """Its size."""
        return len(self.weight)

    def pieces(self, hidden: Tensor) -> list[Callable[[], Tensor]]:
        """What computes each piece (R, C) of the logits of hidden states (R, H), into memory that is used again."""
        rows = len(hidden)
        if self._room.numel() < rows * self.vocabulary:
            self._room = hidden.new_empty(rows * self.vocabulary)

        def piece(start: int) -> Callable[[], Tensor]:
            weight = self.weight[start : start + PIECE]
            room = self._room[rows * start : rows * (start + len(weight))].view(rows, len(weight))
            if self._packed:
                return lambda: room.copy_(self._packed[start // PIECE](hidden))
            if self.bias is None:
                return lambda: torch.mm(hidden, weight.t(), out=room)
            bias = self.bias[start : start + PIECE]
            return lambda: torch.addmm(bias, hidden, weight.t(), out=room)

        return [piece(start) for start in range(0, self.vocabulary, PIECE)]


def pieces_of(logits: Tensor) -> list[Callable[[], Tensor]]:
    """The same of logits (R, V) that a model has computed."""
    return [lambda piece=piece: piece.contiguous() for piece in logits.split(PIECE, dim=1)]  # type: ignore[misc]


def candidates(
    pieces: Sequence[Callable[[], Tensor]], count: int, forbid: Forbid | None = None, normalize: bool = True
) -> Candidates:
    """The `count` likeliest tokens, or all if there are fewer.

    Exact: they lie in the `count` groups of tokens with the largest maxima.
    """
    kept: list[Tensor] = []
    sums, starts = [], []
    start = 0
    for compute in pieces:
        piece = compute()
        if normalize:
            sums.append(_log_sum_exp(piece))
        if forbid is not None:
            forbid(piece, start)
        kept.append(piece)
        starts.append(start)
        start += piece.shape[1]
    count = min(count, start)
    normalizer = torch.stack(sums).logsumexp(0) if normalize else None
    values, tokens = [], []
    whole = [number for number, piece in enumerate(kept) if piece.shape[1] == PIECE]
    if len(whole) * GROUPS > 4 * count:
        maxima = torch.cat([_group_maxima(kept[number]) for number in whole], dim=1)
        groups = maxima.topk(count, dim=1).indices
        numbers, inside = groups // GROUPS, groups % GROUPS
        rows = torch.arange(len(groups), device=groups.device)[:, None]
        members = torch.arange(PIECE // GROUPS, device=groups.device)
        if all(kept[number].data_ptr() - kept[0].data_ptr() == number * _bytes(kept[0]) for number in whole):
            stacked = kept[0].as_strided((len(whole), *kept[0].shape), (kept[0].numel(), *kept[0].stride()))
        else:
            stacked = torch.stack([kept[number] for number in whole])
        found = stacked.view(len(whole), len(rows), -1, GROUPS)[numbers, rows, :, inside]
        values.append(found.flatten(1))
        tokens.append((numbers[..., None] * PIECE + members * GROUPS + inside[..., None]).flatten(1))
        rest = kept[len(whole) :]
    else:
        rest = kept
    for piece, start in zip(rest, starts[len(kept) - len(rest) :], strict=True):
        best = piece.topk(min(count, piece.shape[1]), dim=1)
        values.append(best.values)
        tokens.append(best.indices + start)
    best = torch.cat(values, dim=1).topk(count, dim=1)
    return Candidates(best.values.float(), torch.cat(tokens, dim=1).gather(1, best.indices), normalizer)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _group_maxima(piece: Tensor) -> Tensor:
    """(R, GROUPS): of the tokens at g, g + GROUPS, g + 2 GROUPS, ... of a piece (R, PIECE)."""
    return piece.view(len(piece), -1, GROUPS).amax(dim=1)


def _log_sum_exp(piece: Tensor) -> Tensor:
    """(R,) float32 of a piece (R, C)."""
    precise = torch.promote_types(piece.dtype, torch.float32)
    first = piece[:, 0]
    if piece.device.type == "cpu" and bool(first.isfinite().all()):  # one pass; torch's logsumexp makes four
        return (first - piece.log_softmax(1, dtype=precise)[:, 0]).float()
    return piece.to(precise).logsumexp(1).float()


def everything(pieces: Sequence[Callable[[], Tensor]], forbid: Forbid | None = None) -> Candidates:
    """The whole vocabulary, in its order."""
    computed, sums, start = [], [], 0
    for compute in pieces:
        piece = compute()
        sums.append(_log_sum_exp(piece))
        if forbid is not None:
            forbid(piece, start)
        computed.append(piece)
        start += piece.shape[1]
    logits = torch.cat(computed, dim=1).float()
    tokens = torch.arange(start, device=logits.device).expand_as(logits)
    return Candidates(logits, tokens, torch.stack(sums).logsumexp(0))
