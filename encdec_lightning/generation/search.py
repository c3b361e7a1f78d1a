"""What the searches share: targets under way, those of N sources with K beams each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from encdec_lightning.errors import UserError
from encdec_lightning.generation.candidates import Forbid
from encdec_lightning.generation.constraints import constraint
from encdec_lightning.generation.logits import Pieces
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.special_tokens import Tokens

Places = Tensor | slice
"""Where sources under way are among all N: new ones by number (M,), or the first n."""


@dataclass(frozen=True)
class Hypothesis:
    """One target for a source."""

    tokens: list[int]
    """Its ids, the end token included if it was reached, the start token not."""
    score: float
    """The summed log-probability of its tokens; of a beam search, divided by the penalty of its length."""


@dataclass(frozen=True)
class Move:
    """What a search decided at one step for M sources."""

    parents: Tensor | None
    """(M, K): which beam each beam goes on from; none: each from itself."""
    tokens: Tensor
    """(M, K): what it goes on with."""
    done: Tensor
    """(M,) bool: whether a source needs no more steps."""


def nothing_found() -> UserError:
    """The mistake of a model for which no next token can be chosen."""
    expected = "no target was found for a source: the model's logits are no finite numbers, or all are forbidden"
    return UserError("next token", None, expected)


class Search(ABC):
    """Targets under way: `tokens` (N, K, 1 + T) with the start token, of which 1 + `lengths` (N,) are filled."""

    def __init__(
        self, options: Generation, sources: int, beams: int, max_length: int, special: Tokens, device: torch.device
    ) -> None:
        self.options, self.beams, self.max_length, self.device = options, beams, max_length, device
        self.special, self.end = special, torch.tensor(special.end, dtype=torch.long, device=device)
        self.tokens = torch.full((sources, beams, 1 + max_length), special.start, dtype=torch.long, device=device)
        self.lengths = torch.zeros(sources, dtype=torch.long, device=device)
        self.scores = torch.zeros(sources, beams, dtype=torch.float32, device=device)

    @abstractmethod
    def begin(self, places: Tensor, pieces: Pieces) -> Move:
        """The first tokens of new sources in these places, from the logits of M targets."""

    @abstractmethod
    def step(self, active: int, longest: int, pieces: Pieces) -> Move:
        """The next tokens of the first n sources, from the logits of n * K targets of `longest` tokens or fewer."""

    @abstractmethod
    def hypotheses(self, places: Tensor) -> list[list[Hypothesis]]:
        """The results of the sources in these places, which are done, best first where there is an order."""

    @property
    def state(self) -> list[Tensor]:
        """All tensors with a row for each place."""
        return [self.tokens, self.lengths, self.scores]

    def move(self, into: Tensor, out_of: Tensor) -> None:
        """The sources of some places go into others, whose own are done."""
        for tensor in self.state:
            tensor[into] = tensor[out_of]

    def _forbid(self, tokens: Tensor, lengths: Tensor, longest: int) -> Forbid | None:
        """The constraints on what comes after `tokens` (M, K, 1 + T), of which `lengths` (M * K,) are filled."""
        return constraint(tokens.flatten(0, 1), lengths, longest, self.options, self.special)
