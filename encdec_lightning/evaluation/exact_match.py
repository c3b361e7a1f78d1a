"""Exact match: how many predictions are, word for word, the reference."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.errors import require
from encdec_lightning.evaluation.words import words_and_signs
from encdec_lightning.records import Prediction

Tokens = Literal["spaces", "words"]


class ExactMatch:
    """Percent of predictions equal to a reference. Case matters.

    Args:
        tokens: `spaces` compares what white space separates. `words` compares words and single signs wherever spaces
            are, for references whose signs stand between spaces: a WordPiece tokenizer writes `here, now` for
            `here , now`, so that its texts would never be equal to them.
    """

    names: tuple[str, ...] = ("exact",)
    higher_is_better: bool = True

    def __init__(self, tokens: Tokens = "spaces") -> None:
        require(("tokens", tokens, tokens in get_args(Tokens), "it must be spaces or words"))
        self._split = str.split if tokens == "spaces" else words_and_signs
        told = "space:collapsed" if tokens == "spaces" else "tokens:words and signs"
        self.signature = f"case:kept|{told}|version:1"

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """1 where the texts are equal, else 0; shape (1,)."""
        own = self._split(prediction.prediction)
        equal = any(own == self._split(reference) for reference in prediction.references)
        return np.array([equal], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Shares in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count
