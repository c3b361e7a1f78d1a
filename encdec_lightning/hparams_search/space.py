"""The options that a search varies, each with the values that it may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Number = int | float
Value = str | Number
"""A number of a range; of a choice the text that stands for it on the command line."""


@dataclass(frozen=True)
class Dimension:
    """An option and its values: a few, or all numbers from `low` to `high`, both included."""

    name: str
    """The option, or the group of presets."""
    key: str
    """The name in an override: `++` may stand before it."""
    choices: tuple[str, ...] = ()
    low: Number = 0
    high: Number = 0
    step: Number | None = None
    """The distance between two numbers; None: whole numbers where both ends are whole, else all."""
    log: bool = False
    """Whether the logarithm is even."""

    def override(self, value: Value) -> str:
        """The override that gives the option a value; it is read back as the same number, bit for bit."""
        return f"{self.key}={self._text(value)}"

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Values that are right if all are: both ends of a range, or every choice."""
        return self.choices or (self.low, self.high)

    def told(self, value: Value) -> str:
        """`name=value` for people, with four digits."""
        return f"{self.name}={shown(value)}"

    def described(self) -> dict[str, Any]:
        """The values in plain words of JSON."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "step": self.step, "log": self.log}

    @staticmethod
    def _text(value: Value) -> str:
        return value if isinstance(value, str) else repr(value)


Space = Sequence[Dimension]


def shown(value: Value) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
