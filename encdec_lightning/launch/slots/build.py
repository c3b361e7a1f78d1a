"""Objects of the open slots: `_target_` nodes, checked against their class and its signature before they are built."""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from encdec_lightning.config import Node
from encdec_lightning.dotted import NotImported, imported
from encdec_lightning.errors import UserError, UserErrors, did_you_mean, nearest
from encdec_lightning.launch.slots.argument_types import wrong_kind

TRAINER, CALLBACK, LOGGER, OPTIMIZER = lightning.Trainer, lightning.Callback, Logger, torch.optim.Optimizer
"""What the objects of the slots must be."""
KNOWN = ("encdec_lightning", "lightning", "pytorch_lightning", "torch")
REFUSALS = (TypeError, ValueError, ImportError, MisconfigurationException)


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
        if name != "_target_" and name not in parameters and not takes_any and not _is_default(field, name):
            expected = f"{node['_target_']} takes no such argument{did_you_mean(name, parameters)}"
            found.append(UserError(f"{field}.{name}", value, expected))
        elif is_node(value):
            found += check_slot(f"{field}.{name}", value, object)
        elif name != "_target_" and is_known(target):
            kinds = wrong_kind(target, name, value)
            found += [UserError(f"{field}.{name}", value, kinds)] if kinds is not None else []
    return found


def argument_meant(problem: UserError, field: str, node: Node, base: type) -> str:
    """The argument that a problem of `check_slot` is about: for a name that there is not, the nearest, or all."""
    argument = problem.field.removeprefix(f"{field}.").partition(".")[0]
    with suppress(UserError):
        parameters = _parameters(_target(field, node, base))
        if argument not in parameters:
            argument = nearest(argument, parameters) or ""
    return f"{field}.{argument}".rstrip(".")


def _is_default(field: str, name: str) -> bool:
    """Whether an argument is the default optimizer's `fused`, which is left out where another one has none."""
    return (field, name) == ("optimizer", "fused")


def is_known(target: type) -> bool:
    """Whether a class is of this project, Lightning or torch: to make one has no effect outside of it."""
    return target.__module__.partition(".")[0] in KNOWN


def build(field: str, node: Node, base: type, **extra: Any) -> Any:
    """The object of a slot's node. `extra` fills arguments that the target takes and the node does not give."""
    problems = check_slot(field, node, base)
    if problems:
        raise UserErrors(problems)
    target = _target(field, node, base)
    known = _parameters(target)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    arguments |= {name: value for name, value in extra.items() if name in known and name not in arguments}
    made = {name: _nested(f"{field}.{name}", value) for name, value in arguments.items()}
    return _called(field, node["_target_"], target, **made)


def build_partial(field: str, node: Node, base: type) -> Any:
    """The target of a slot's node with its arguments bound, to be called with the rest."""
    problems = check_slot(field, node, base)
    if problems:
        raise UserErrors(problems)
    target = _target(field, node, base)
    left = {"_target_", *(name for name in node if _is_default(field, name) and name not in _parameters(target))}
    arguments = {name: _nested(f"{field}.{name}", value) for name, value in node.items() if name not in left}
    return functools.partial(_called, field, node["_target_"], target, **arguments)


def check_call(field: str, node: Node, **extra: Any) -> list[UserError]:
    """Whether the target has all the arguments that it needs, without making anything."""
    target = _target(field, node, object)
    known = _parameters(target)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    try:
        inspect.signature(target).bind(**{name: value for name, value in extra.items() if name in known} | arguments)
    except TypeError as error:
        return [UserError(field, node["_target_"], f"it cannot be built: {first_line(error)}")]
    return []


def target_of(node: Node) -> type | None:
    """The class that a node names; None where there is no such class, which `check_slot` says."""
    try:
        return _target("", node, object)
    except UserError:
        return None


def _called(field: str, path: str, target: type, /, *values: Any, **arguments: Any) -> Any:
    try:
        return target(*values, **arguments)
    except (UserError, UserErrors):
        raise
    except Exception as error:
        if not (is_known(target) or isinstance(error, REFUSALS)):
            raise  # a bug in a class of the user's own keeps its traceback
        raise UserError(field, path, f"it cannot be built: {first_line(error)}") from error


def _parameters(target: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(target).parameters)


def _target(field: str, node: Node, base: type) -> type:
    path = node.get("_target_")
    if not isinstance(path, str):
        raise UserError(f"{field}._target_", path, "it must be the dotted path of a class")
    try:
        found = imported(path)
    except NotImported as error:
        expected = f"it cannot be imported ({first_line(error.cause)})"
        raise UserError(f"{field}._target_", path, expected) from error.cause
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{field}._target_", path, f"it must be a {base.__module__}.{base.__qualname__}")
    return found


def _nested(field: str, value: Any) -> Any:
    """A strategy or the like given as a `_target_` node of its own, inside an argument."""
    return build(field, value, object) if is_node(value) else value


def is_node(value: Any) -> bool:
    """Whether a value is a slot of its own."""
    return isinstance(value, dict) and "_target_" in value


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its kind too where the words alone would be a riddle."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".!")
    if text and isinstance(error, (*REFUSALS, AttributeError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
