"""Objects of the open slots: `_target_` nodes, checked against their class and its signature before they are built."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from encdec_lightning.config import Node
from encdec_lightning.errors import UserError, UserErrors, did_you_mean


def check_slot(field: str, node: Node, base: type) -> list[UserError]:
    """What is wrong with a slot's node: its `_target_` must be a `base`, its other keys arguments that this takes."""
    try:
        target = _target(field, node, base)
    except UserError as error:
        return [error]
    parameters = _parameters(target)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    found: list[UserError] = []
    for name, value in node.items():
        if name != "_target_" and name not in parameters and not takes_any:
            expected = f"{node['_target_']} takes no such argument{did_you_mean(name, parameters)}"
            found.append(UserError(f"{field}.{name}", value, expected))
        elif _is_node(value):
            found += check_slot(f"{field}.{name}", value, object)
    return found


def build(field: str, node: Node, base: type, **extra: Any) -> Any:
    """The object of a slot's node. `extra` fills arguments that the target takes and the node does not give."""
    problems = check_slot(field, node, base)
    if problems:
        raise UserErrors(problems)
    target = _target(field, node, base)
    known = _parameters(target)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    arguments |= {name: value for name, value in extra.items() if name in known and name not in arguments}
    try:
        return target(**{name: _nested(f"{field}.{name}", value) for name, value in arguments.items()})
    except UserError:
        raise
    except (ImportError, TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(field, node["_target_"], f"it cannot be built: {first_line(error)}") from error


def build_partial(field: str, node: Node, base: type) -> Any:
    """The target of a slot's node with its arguments bound, to be called with the rest."""
    problems = check_slot(field, node, base)
    if problems:
        raise UserErrors(problems)
    arguments = {name: _nested(f"{field}.{name}", value) for name, value in node.items() if name != "_target_"}
    return functools.partial(_target(field, node, base), **arguments)


def target_of(node: Node) -> type | None:
    """The class that a node names; None where there is no such class, which `check_slot` says."""
    try:
        return _target("", node, object)
    except UserError:
        return None


def _parameters(target: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(target).parameters)


def _target(field: str, node: Node, base: type) -> type:
    path = node.get("_target_")
    if not isinstance(path, str):
        raise UserError(f"{field}._target_", path, "it must be the dotted path of a class")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{field}._target_", path, f"it cannot be imported ({first_line(error)})") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{field}._target_", path, f"it must be a {base.__module__}.{base.__qualname__}")
    return found


def _nested(field: str, value: Any) -> Any:
    """A strategy or the like given as a `_target_` node of its own, inside an argument."""
    return build(field, value, object) if _is_node(value) else value


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def first_line(error: Exception) -> str:
    """The first line of what an exception says, without a full stop; its class's name where it says nothing."""
    return str(error).strip().splitlines()[0].rstrip(".!") if str(error).strip() else type(error).__name__


@contextmanager
def lightnings_refusals() -> Iterator[None]:
    """What Lightning's Trainer refuses when it sees the data, and a data worker that dies, as a `UserError`."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError("trainer", "lightning.Trainer", first_line(error)) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # torch has no class of its own for it
            raise
        expected = (
            "a process that prepares batches has died, often because the memory is short; fewer of them, or"
            " data.workers=0, need less, and the same command goes on from the last checkpoint"
        )
        raise UserError("data.workers", first_line(error), expected) from error
