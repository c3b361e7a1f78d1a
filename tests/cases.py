"""Cases of a test, of which the suite runs some and the long studies (`-m slow`) all others too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """For `pytest.mark.parametrize`: the cases in `kept` as they are, the others marked slow."""
    cases = list(cases)
    assert all(each in cases for each in kept)
    return [each if each in kept else pytest.param(each, marks=pytest.mark.slow) for each in cases]
