"""Training pairs with several targets, one of which is drawn for each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.data.batches.plan import Indices, Lengths, Plan


class DrawnTargets:
    """Examples that lie target by target, those of one pair side by side.

    Epochs are planned over the P pairs, each as long as its longest target, so that every epoch has the same number of
    batches; then each pair stands for the one of its examples that the epoch draws.
    """

    def __init__(self, rows: NDArray[Any], lengths: Lengths, seed: int) -> None:
        """`rows` (N,) are the numbers of the examples' pairs, `lengths` (N, 2) their tokens of source and target."""
        begins = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1)) if len(rows) else np.zeros(0, dtype=np.int64)
        self._begins, self._counts = begins, np.diff(begins, append=len(rows))
        self._examples, self._seed = lengths, seed
        self.lengths: Lengths = np.maximum.reduceat(lengths, begins) if len(rows) else lengths
        """(P, 2): tokens of each pair's source and of its longest target."""

    def members(self, epoch: int) -> Indices:
        """(P,): the example of each pair that an epoch draws, a function of seed and epoch."""
        share = np.random.default_rng([self._seed, epoch, 1]).random(len(self._begins))
        found: Indices = self._begins + (share * self._counts).astype(np.int64)
        return found

    def drawn(self, plan: Plan, epoch: int) -> Plan:
        """The plan of an epoch of pairs, of the examples drawn for it."""
        return plan.of(self.members(epoch), self._examples)
