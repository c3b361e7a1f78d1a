"""Hydra's errors in sentences of this project."""

from __future__ import annotations

import contextlib
import re

from encdec_lightning.config import NOT_GIVEN
from encdec_lightning.errors import UserError, one_of


def restated(error: Exception) -> UserError:
    """Hydra's error as one sentence: its innermost cause, first line."""
    from hydra.errors import MissingConfigException

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        group, _, name = cause.missing_cfg_file.rpartition("/")
        there = one_of(cause.options) if cause.options else "there is no such preset"
        return UserError(group, name, there)
    lacking = re.search(r"(?:Missing mandatory value: |Interpolation key ')(checkpoints\.(\w+))", str(cause))
    if lacking:
        expected = f"this set of checkpoints has none for {lacking[2]}; choose another with checkpoints=, or set it"
        return UserError(lacking[1], None, expected)
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    key = getattr(cause, "full_key", None) or "configuration"
    value: object = NOT_GIVEN
    with contextlib.suppress(Exception):
        value = getattr(cause, "value", None)
    return UserError(str(key), value, text.rstrip("."))
