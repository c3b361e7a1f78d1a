"""The best next tokens of each target, without log-probabilities of all tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from encdec_lightning.generation.logits import PIECE, Pieces

GROUPS = 64  # of a piece, of which only those that hold a large logit are looked into

Forbid = Callable[[Tensor, int], None]
"""Sets to -inf, in a piece of logits (R, C) that starts at a token, what must not come next."""


@dataclass(frozen=True)
class Candidates:
    """The k likeliest next tokens of R targets, likeliest first."""

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


def candidates(pieces: Pieces, count: int, forbid: Forbid | None = None, normalize: bool = True) -> Candidates:
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
        targets = torch.arange(len(groups), device=groups.device)[:, None]
        members = torch.arange(PIECE // GROUPS, device=groups.device)
        if all(_follows(kept[number], kept[0], number) for number in whole):
            stacked = kept[0].as_strided((len(whole), *kept[0].shape), (kept[0].numel(), *kept[0].stride()))
        else:
            stacked = torch.stack([kept[number] for number in whole])
        found = stacked.view(len(whole), len(targets), -1, GROUPS)[numbers, targets, :, inside]
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


def _follows(piece: Tensor, first: Tensor, number: int) -> bool:
    """Whether a piece lies so many pieces behind the first in the same memory, not in another that begins there."""
    if piece.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
        return False
    return piece.data_ptr() - first.data_ptr() == number * first.numel() * first.element_size()


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


def everything(pieces: Pieces, forbid: Forbid | None = None) -> Candidates:
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
