"""Learning-rate schedules: each a factor of the optimizer step t, counted from 1. Nothing here loads torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from encdec_lightning.training.options import Training


def constant(step: int, warmup: int, total: int, width: int) -> float:
    """Linear warm-up, then 1."""
    return min(1.0, step / max(warmup, 1))


def linear(step: int, warmup: int, total: int, width: int) -> float:
    """Linear warm-up, then linearly down: the step after the last would have 0."""
    if step <= warmup:
        return step / warmup
    return max(0.0, (total + 1 - step) / max(total + 1 - warmup, 1))


def cosine(step: int, warmup: int, total: int, width: int) -> float:
    """Linear warm-up, then half a cosine down: the step after the last would have 0 (Loshchilov & Hutter, 2017)."""
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(total + 1 - warmup, 1))))


def inverse_sqrt(step: int, warmup: int, total: int, width: int) -> float:
    """Linear warm-up to 1, then sqrt(warmup / t)."""
    return float(min(step / warmup, (warmup / step) ** 0.5))


def noam(step: int, warmup: int, total: int, width: int) -> float:
    """width^-0.5 * min(t^-0.5, t * warmup^-1.5): Rothe et al., section 2, with a learning rate of 0.05."""
    return float(width**-0.5 * min(step**-0.5, step * warmup**-1.5))


@dataclass(frozen=True)
class Schedule:
    """A schedule, and what it must know of a training."""

    factor: Callable[[int, int, int, int], float]
    """A function of the step, the steps of warm-up, the steps of the training (0: without a number) and the width."""
    needs_steps: bool = False
    """Whether it is only defined where the number of steps of the training is known."""


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(constant),
    "linear": Schedule(linear, needs_steps=True),
    "cosine": Schedule(cosine, needs_steps=True),
    "inverse_sqrt": Schedule(inverse_sqrt),
    "noam": Schedule(noam),
}


def schedule(
    training: Training, total_steps: int, width: int, warmup_steps: int | None = None
) -> Callable[[int], float]:
    """The factor for torch's `LambdaLR`, which counts steps from 0. `width` is the decoder's hidden size.

    `warmup_steps` are those of one group of parameters, by default the training's.
    """
    factor = SCHEDULES[training.schedule].factor
    warmup = training.warmup_steps if warmup_steps is None else warmup_steps
    return lambda index: factor(index + 1, warmup, total_steps, width)
