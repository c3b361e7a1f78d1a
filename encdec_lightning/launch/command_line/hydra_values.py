"""Composed values as plain ones, interpolations resolved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from encdec_lightning.config import Node
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.command_line.hydra_errors import restated
from encdec_lightning.launch.command_line.presets import choices
from encdec_lightning.launch.command_line.reading import PATHS


def plain(composed: Any) -> Node:
    """Composed values as plain ones, interpolations resolved, values that were not given left out."""
    values, unresolved = resolved(composed)
    if unresolved:
        raise UserErrors(unresolved.values())
    return values


def resolved(composed: Any, prefix: str = "") -> tuple[Node, dict[str, UserError]]:
    """Composed values as plain ones, without those that were not given; and, by option, what cannot be resolved."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values: Node = {}
    unresolved: dict[str, UserError] = {}
    for key in composed:
        option = f"{prefix}{key}"
        if option == "checkpoints" or OmegaConf.is_missing(composed, key):  # the one is a source of interpolations
            continue
        try:
            value = composed[key]
            if isinstance(value, DictConfig):
                values[key], inner = resolved(value, f"{option}.")
                unresolved |= inner
            else:
                value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
                values[key] = _at_home(value) if option in PATHS and isinstance(value, str) else value
        except RecursionError:
            unresolved[option] = UserError(option, "${...}", "its interpolation leads back to itself")
        except OmegaConfBaseException as error:
            unresolved[option] = _with_its_value(restated(error), option, composed._get_node(key))
    return values, unresolved


def _at_home(path: str) -> str:
    """A path, or several with a + between, whose `~` is the user's home: a shell leaves it behind `data.cache=`."""
    return re.sub(r"(?:^|(?<=\+))~(?=/|$)", lambda _: str(Path.home()), path)


def _with_its_value(told: UserError, option: str, node: Any) -> UserError:
    """An error of an option's own interpolation with what was written there, and with what may have been meant."""
    if told.field != option:
        return told
    expected = told.expected
    inner = re.search(r"raised while resolving interpolation: \W?(.+?)\W?$", expected)
    if inner:
        expected = inner[1]
    lacking = re.fullmatch(r"Interpolation key '(\w+)' not found", expected)
    if lacking and lacking[1] in choices():
        expected = f"{lacking[1]} is a group of presets; ${{hydra:runtime.choices.{lacking[1]}}} is what was chosen"
    return UserError(option, node._value(), expected)
