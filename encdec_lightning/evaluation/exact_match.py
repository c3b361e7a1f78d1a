"""Exact match: how many predictions are, word for word, the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.records import Prediction


class ExactMatch:
    """Percent of predictions equal to a reference, runs of white space counting as one space. Case matters."""

    names: tuple[str, ...] = ("exact",)
    signature: str = "case:kept|space:collapsed|version:1"
    higher_is_better: bool = True

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """1 where the texts are equal, else 0; shape (1,)."""
        own = prediction.prediction.split()
        equal = any(own == reference.split() for reference in prediction.references)
        return np.array([equal], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Shares in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count
