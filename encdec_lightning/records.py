"""The two records that travel through the whole project."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One example: a source text and the target text a model should write for it.

    `id` is given once, by the reader, and stays with the example up to `predictions/test.jsonl`.
    """

    id: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model, a baseline or a foreign system wrote for one example."""

    id: str
    source: str
    reference: str
    prediction: str
