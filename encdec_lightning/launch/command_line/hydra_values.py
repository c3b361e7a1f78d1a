"""Composed values as plain ones, interpolations resolved."""

from __future__ import annotations

from typing import Any

from encdec_lightning.config import Node
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.command_line.hydra_errors import restated


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
                values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except RecursionError:
            unresolved[option] = UserError(option, "${...}", "its interpolation leads back to itself")
        except OmegaConfBaseException as error:
            unresolved[option] = restated(error)
    return values, unresolved
