"""One token after another: the likeliest, or drawn from the distribution, cut to its likely part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from encdec_lightning.generation.candidates import Candidates, Forbid, candidates, everything
from encdec_lightning.generation.logits import Pieces
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.search import Hypothesis, Move, Places, Search, nothing_found
from encdec_lightning.generation.special_tokens import Tokens


class Sampling(Search):
    """`num_return_sequences` targets of each source, drawn one by one; without `do_sample` the likeliest token, once.

    Draws come from `generator`, or torch's global one, and from nothing else.
    """

    def __init__(
        self, options: Generation, sources: int, max_length: int, special: Tokens, device: torch.device,
        generator: torch.Generator | None = None, scores: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(options, sources, options.num_return_sequences, max_length, special, device)
        self.generator, self.with_scores = generator, scores
        self.ended = torch.zeros_like(self.scores, dtype=torch.bool)
        self.ended_lengths = torch.zeros_like(self.scores, dtype=torch.long)

    @property
    def state(self) -> list[Tensor]:
        """All tensors with a row for each place."""
        return [*super().state, self.ended, self.ended_lengths]

    def begin(self, places: Tensor, pieces: Pieces) -> Move:
        """The first tokens of new sources in these places, from the logits of M targets."""
        self.lengths[places] = self.ended_lengths[places] = 0
        self.scores[places] = 0
        self.ended[places] = False
        return self._advance(places, 0, pieces, beams=1)

    def step(self, active: int, longest: int, pieces: Pieces) -> Move:
        """The next tokens of the first n sources, from the logits of n * K targets."""
        return self._advance(slice(0, active), longest, pieces, self.beams)

    def _advance(self, at: Places, longest: int, pieces: Pieces, beams: int) -> Move:
        tokens, lengths = self.tokens[at], self.lengths[at]
        filled = lengths.repeat_interleave(beams)
        best = self._best(pieces, self._forbid(tokens[:, :beams], filled, longest))
        best = self.special.force(best, filled, self.max_length)
        normalizer = best.normalizer
        if self.options.do_sample:
            drawn, lost = self._draw(best.logits, self.beams // beams)
            logits, words = best.logits.gather(1, drawn), best.tokens.gather(1, drawn)
        else:
            logits, words = best.logits, best.tokens
            lost = ~(logits < torch.inf)
        words = words.view(len(tokens), self.beams)
        lengths = lengths + 1
        ended = self.ended[at]
        if normalizer is not None:
            gained = (logits - normalizer[:, None]).view(words.shape)
            self.scores[at] = self.scores[at] + gained.masked_fill(ended, 0)
        lost = lost.expand(-1, self.beams // beams).reshape(words.shape) & ~ended
        self.scores[at] = self.scores[at].masked_fill(lost, torch.nan)  # which `hypotheses` will see
        tokens = tokens.scatter(2, lengths[:, None, None].expand(-1, self.beams, 1), words[..., None])
        self.tokens[at], self.lengths[at] = tokens, lengths
        self.ended_lengths[at] = torch.where(ended, self.ended_lengths[at], lengths[:, None])
        self.ended[at] = ended = ended | torch.isin(words, self.end) | (lengths == self.max_length)[:, None]
        return Move(None, words, ended.all(dim=1))

    def _best(self, pieces: Pieces, forbid: Forbid | None) -> Candidates:
        """What is chosen from: the likeliest token, or `top_k` of them, or all."""
        if not self.options.do_sample:
            return candidates(pieces, 1, forbid, self.with_scores)
        return candidates(pieces, self.options.top_k, forbid) if self.options.top_k else everything(pieces, forbid)

    def _draw(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(R, count) columns of (R, C) logits, drawn independently, and (R, 1) whether nothing could be drawn."""
        logits = logits / self.options.temperature
        if self.options.top_p < 1:
            logits = cut_to_nucleus(logits, self.options.top_p)
        probabilities = logits.softmax(dim=1)
        lost = probabilities[:, :1].isnan()  # then all of the row are
        if count == 1 and probabilities.device.type != "cpu":
            # torch's own draw, without its look at the numbers, for which it would wait
            noise = torch.empty_like(probabilities).exponential_(generator=self.generator)
            return (probabilities / noise).argmax(dim=1, keepdim=True), lost
        probabilities = probabilities.masked_fill(lost, 1.0)  # torch's draw would end in an error of its own
        return torch.multinomial(probabilities, count, replacement=True, generator=self.generator), lost

    def hypotheses(self, places: Tensor) -> list[list[Hypothesis]]:
        """The targets of sources that are done, in the order of the draws; raises `UserError` if there is none."""
        rows = zip(*(each[places].tolist() for each in (self.tokens, self.ended_lengths, self.scores)), strict=True)
        found = [
            [Hypothesis(ids[1 : 1 + length], score) for ids, length, score in zip(*row, strict=True)] for row in rows
        ]
        if any(math.isnan(each.score) for targets in found for each in targets):
            raise nothing_found()
        return found


def cut_to_nucleus(logits: Tensor, mass: float) -> Tensor:
    """Logits (R, C), -inf outside the fewest likeliest tokens that hold `mass` (Holtzman et al. 2020, section 3.1)."""
    ordered, order = logits.sort(dim=1)
    outside = ordered.softmax(dim=1).cumsum(dim=1) <= 1 - mass
    outside[:, -1] = False
    return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
