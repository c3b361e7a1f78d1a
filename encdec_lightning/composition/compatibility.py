"""`check`: whether a combination can be composed, from configs alone, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.parameters import ParameterTable, count_parameters
from encdec_lightning.composition.signature import takes_fields_of
from encdec_lightning.errors import UserError, UserErrors


@dataclass(frozen=True)
class Compatibility:
    """The answer of `check`."""

    problems: tuple[UserError, ...]
    parameters: ParameterTable | None = None
    """What will be pretrained, random and shared; None where there are problems."""

    @property
    def ok(self) -> bool:
        """Whether `compose` will build it."""
        return not self.problems


@takes_fields_of(Composition)
def check(given: Callable[[], Composition]) -> Compatibility:
    """Say whether `compose` with the same arguments will work, and what will be pretrained, random and shared."""
    try:
        model = skeleton(given())
    except UserError as problem:
        return Compatibility((problem,))
    except UserErrors as errors:
        return Compatibility(errors.problems)
    return Compatibility((), count_parameters(model))
