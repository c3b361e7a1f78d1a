"""What must not come next: the end token too early, an n-gram a second time."""

from __future__ import annotations

import torch
from torch import Tensor

from encdec_lightning.generation.candidates import Forbid
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.special_tokens import Tokens


def constraint(tokens: Tensor, lengths: Tensor, longest: int, options: Generation, special: Tokens) -> Forbid | None:
    """What to forbid after `tokens` (R, 1 + T), of which the start token and then `lengths` (R,) are filled.

    `longest` is the largest of the lengths, or more. N-grams count the start token, as transformers' do. The repeat is
    never emitted: a token that would complete it is forbidden, so that a beam goes on with another. That is the trigram
    blocking of Paulus et al. 2017 (section 2.5) with an n of 3, on tokens; Liu & Lapata's code compares words instead,
    and notices a repeat one step after it was written, when it drops the beam.
    """
    rules: list[Forbid] = []
    ngram = options.no_repeat_ngram_size
    if special.never:
        rules.append(_forbid_always(special.never))
    if options.min_length > 0 and special.end:
        early = lengths < options.min_length

        def forbid_end(piece: Tensor, start: int) -> None:
            for end in special.end:
                if start <= end < start + piece.shape[1]:
                    piece[:, end - start].masked_fill_(early, -torch.inf)

        rules.append(forbid_end)
    if 0 < ngram <= longest + 1:
        banned, holds = _repeats(tokens[:, : longest + 1], lengths, ngram)

        def forbid_repeats(piece: Tensor, start: int) -> None:
            inside = holds & (banned >= start) & (banned < start + piece.shape[1])
            limit = torch.where(inside, -torch.inf, torch.inf).to(piece.dtype)
            piece.scatter_reduce_(1, (banned - start).clamp(0, piece.shape[1] - 1), limit, "amin")

        rules.append(forbid_repeats)
    if not rules:
        return None

    def forbid(piece: Tensor, start: int) -> None:
        for rule in rules:
            rule(piece, start)

    return forbid


def _forbid_always(tokens: tuple[int, ...]) -> Forbid:
    def forbid(piece: Tensor, start: int) -> None:
        for token in tokens:
            if start <= token < start + piece.shape[1]:
                piece[:, token - start] = -torch.inf

    return forbid


def _repeats(tokens: Tensor, lengths: Tensor, ngram: int) -> tuple[Tensor, Tensor]:
    """The last token of every n-gram so far, (R, W), and whether its first tokens are the row's last, (R, W)."""
    windows = tokens.unfold(1, ngram, 1)
    last = lengths[:, None] + torch.arange(2 - ngram, 1, device=tokens.device)
    suffix = tokens.gather(1, last.clamp(min=0))
    complete = torch.arange(windows.shape[1], device=tokens.device) + ngram - 1 <= lengths[:, None]
    holds = (windows[..., :-1] == suffix[:, None]).all(dim=-1) & complete
    return windows[..., -1], holds
