"""Beam search as transformers 5 has it, on tensors, over many sources at once; each source ends by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from encdec_lightning.generation.candidates import candidates
from encdec_lightning.generation.logits import Pieces
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.search import Hypothesis, Move, Places, Search, nothing_found
from encdec_lightning.generation.special_tokens import Tokens

LOWEST = -1.0e9
"""The score of a running beam that there is not; a finished target that there is not has -inf."""


class BeamSearch(Search):
    """K running and K finished targets of each source.

    At each step the best 2 K continuations of a source are looked at, or (1 + E) K where E tokens end a target. Of the
    best K, those that end are finished, their summed log-probabilities divided by the penalty of their length; the best
    K that do not end run on. A source is done when its best running target cannot overtake its worst finished one, as
    `Generation.early_stopping` has it, or at the maximum length.
    """

    def __init__(
        self, options: Generation, sources: int, max_length: int, special: Tokens, device: torch.device
    ) -> None:
        beams = options.num_beams
        super().__init__(options, sources, beams, max_length, special, device)
        self.count = max(2, 1 + len(special.end)) * beams
        self.finished = self.tokens.clone()
        self.finished_lengths = torch.zeros(sources, beams, dtype=torch.long, device=device)
        self.finished_scores = torch.full((sources, beams), -torch.inf, dtype=torch.float32, device=device)
        penalties = [options.penalty(length) for length in range(max_length + 1)]
        self.penalties = torch.tensor(penalties, dtype=torch.float32, device=device)

    @property
    def state(self) -> list[Tensor]:
        """All tensors with a row for each place."""
        return [*super().state, self.finished, self.finished_lengths, self.finished_scores]

    def begin(self, places: Tensor, pieces: Pieces) -> Move:
        """The first tokens of new sources in these places, from the logits of M targets."""
        self.lengths[places] = 0
        self.scores[places] = 0
        self.finished_scores[places] = -torch.inf
        return self._advance(places, 0, pieces, beams=1)

    def step(self, active: int, longest: int, pieces: Pieces) -> Move:
        """The next tokens of the first n sources, from the logits of n * K targets."""
        return self._advance(slice(0, active), longest, pieces, self.beams)

    def _advance(self, at: Places, longest: int, pieces: Pieces, beams: int) -> Move:
        tokens, lengths = self.tokens[at][:, :beams], self.lengths[at]
        filled = lengths.repeat_interleave(beams)
        best = candidates(pieces, self.count, self._forbid(tokens, filled, longest))
        best = self.special.force(best, filled, self.max_length)
        width = best.tokens.shape[1]
        sums = best.log_probabilities.view(len(tokens), beams, width) + self.scores[at][:, :beams, None]
        sums, chosen = sums.flatten(1).topk(min(self.count, beams * width), dim=1)
        missing = self.count - sums.shape[1]  # of a small vocabulary; they are as impossible as what is forbidden
        sums, chosen = functional.pad(sums, (0, missing), value=-torch.inf), functional.pad(chosen, (0, missing))
        parents = chosen // width
        words = best.tokens.view(len(tokens), -1).gather(1, chosen)
        lengths = lengths + 1
        ends = torch.isin(words, self.end) | (lengths == self.max_length)[:, None]
        self._finish(at, tokens, lengths, sums.where(ends, LOWEST), parents, words)
        scores, runs = sums.masked_fill(ends, LOWEST).topk(self.beams, dim=1)
        parents, words = parents.gather(1, runs), words.gather(1, runs)
        self.tokens[at] = _grown(tokens, lengths, parents, words)
        self.lengths[at], self.scores[at] = lengths, scores
        return Move(parents, words, self._done(at, lengths, scores[:, 0]))

    def _finish(
        self, at: Places, tokens: Tensor, lengths: Tensor, sums: Tensor, parents: Tensor, words: Tensor
    ) -> None:
        """Keep the best K of the finished targets and of the new ones, which are among the first K of these."""
        sums, parents, words = (each[:, : self.beams] for each in (sums, parents, words))
        new = torch.where(sums > LOWEST, sums / self.penalties[lengths][:, None], -torch.inf)
        scores, kept = torch.cat([self.finished_scores[at], new], dim=1).topk(self.beams, dim=1)
        both = torch.cat([self.finished[at], _grown(tokens, lengths, parents, words)], dim=1)
        self.finished[at] = both.gather(1, kept[..., None].expand(-1, -1, both.shape[2]))
        both_lengths = torch.cat([self.finished_lengths[at], lengths[:, None].expand_as(new)], dim=1)
        self.finished_lengths[at] = both_lengths.gather(1, kept)
        self.finished_scores[at] = scores

    def _done(self, at: Places, lengths: Tensor, best_running: Tensor) -> Tensor:
        """(M,): whether nothing more is to be found. Without K finished targets the worst of them is -inf."""
        worst = self.finished_scores[at][:, -1]
        if self.options.early_stopping is True:
            overtaken = worst > -torch.inf
        else:
            at_best = lengths
            if self.options.early_stopping == "never" and self.options.length_penalty > 0:
                at_best = torch.full_like(lengths, self.max_length)
            overtaken = best_running / self.penalties[at_best] <= worst
        return overtaken | (lengths == self.max_length)

    def hypotheses(self, places: Tensor) -> list[list[Hypothesis]]:
        """The best `num_return_sequences` of sources that are done; fewer where the vocabulary allows no more.

        Raises `UserError` where there is none at all.
        """
        count = self.options.num_return_sequences
        tables = (self.finished, self.finished_lengths, self.finished_scores)
        rows = zip(*(each[places, :count].tolist() for each in tables), strict=True)
        found = [
            [
                Hypothesis(ids[1 : 1 + length], score)
                for ids, length, score in zip(*row, strict=True)
                if score > -math.inf
            ]
            for row in rows
        ]
        if not all(found):
            raise nothing_found()
        return found


def _grown(tokens: Tensor, lengths: Tensor, parents: Tensor, words: Tensor) -> Tensor:
    """(M, J, 1 + T): the targets `parents` (M, J) of `tokens` (M, K, 1 + T), with `words` (M, J) at `lengths` (M,)."""
    grown = tokens.gather(1, parents[..., None].expand(-1, -1, tokens.shape[2]))
    return grown.scatter_(2, lengths[:, None, None].expand(-1, words.shape[1], 1), words[..., None])
