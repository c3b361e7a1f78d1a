"""The two records that travel through the whole project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Record = TypeVar("Record")


def same_may_be_set(kind: type[Record]) -> type[Record]:
    """A frozen dataclass whose fields may be set to what they hold already; any other value is refused as before.

    Lightning copies the dataclasses in batches and predictions, then sets each field of the copy to what a function
    makes of it: moving to a device or casting floating-point tensors, which changes neither texts nor whole numbers.
    """
    refuse: Callable[[Record, str, object], None] = kind.__setattr__

    def set_same(self: Record, name: str, value: object) -> None:
        held = getattr(self, name, None)
        if value is not held and not (type(value) is type(held) in (str, int, tuple) and value == held):
            refuse(self, name, value)

    kind.__setattr__ = set_same  # type: ignore[method-assign, assignment]
    return kind


@same_may_be_set
@dataclass(frozen=True, slots=True)
class Pair:
    """One example: a source text and the target text a model should write for it.

    `id` is given once, by the reader, and stays with the example up to `predictions/test.jsonl`.
    """

    id: str
    source: str
    target: str
    other_targets: tuple[str, ...] = ()
    """Further targets that are as right: metrics know them, training only with `task.train_target=drawn`."""


@same_may_be_set
@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model, a baseline or a foreign system wrote for one example."""

    id: str
    source: str
    reference: str
    prediction: str
    other_references: tuple[str, ...] = ()
    """Further texts that are as right as `reference`."""

    @property
    def references(self) -> tuple[str, ...]:
        """All texts that are right."""
        return (self.reference, *self.other_references)


def plain(prediction: Prediction) -> dict[str, Any]:
    """What a line of a file of predictions holds."""
    return {
        "id": prediction.id,
        "source": prediction.source,
        "references": list(prediction.references),
        "prediction": prediction.prediction,
    }


def prediction_of(line: dict[str, Any]) -> Prediction:
    """The prediction of such a line; one with a single `reference` is taken too."""
    reference, *others = line.pop("references") if "references" in line else [line.pop("reference")]
    return Prediction(reference=reference, other_references=tuple(others), **line)
