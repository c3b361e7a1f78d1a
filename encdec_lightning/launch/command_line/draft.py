"""A config that is not right yet: what is wrong with it, what is missing, and all the rest."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from encdec_lightning.config import GIVE, Config, Node, defaults, kind_of, validated
from encdec_lightning.errors import UserError, UserErrors, nearest

NODES: dict[str, str | None] = {
    **dict.fromkeys(("checkpoints", "encoder", "decoder", "weights", "variant", "ablation"), "model"),
    **{name: name for name in ("task", "generation", "training", "optimizer", "callbacks", "logger", "slurm")},
    **dict.fromkeys(("hardware", "precision", "debug"), "trainer"),
    "hparams_search": None,
}
"""What the presets of a group set; those of any other group may set anything."""


@dataclass(frozen=True)
class Draft:
    """A config as far as its values are right."""

    config: Config
    """The config with the default, or `???`, in place of each doubtful value."""
    problems: tuple[UserError, ...]
    """What is wrong with single values."""
    missing: tuple[str, ...]
    """Options that have no value and need one."""
    doubtful: frozenset[str]
    """Options of which nothing can be said: they are wrong, or missing, or depend on one that is."""
    given: frozenset[str] = frozenset()
    """Options that the command names, or whose preset it chooses, as far as their names are right."""


def draft(values: Node) -> Draft:
    """The config of composed plain values, as far as they are right; raises `UserErrors` where nothing can be saved."""
    values, found, missing, replaced = copy.deepcopy(values), list[UserError](), list[str](), set[str]()
    while True:
        config, wrong = validated(values)
        if config is not None:
            return Draft(config, tuple(found), tuple(missing), frozenset(replaced))
        if any(problem.field in {"", *replaced} for problem in wrong):  # replacing it was of no use
            raise UserErrors(found or wrong)
        before = set(replaced)
        for problem in wrong:
            if problem.expected == GIVE:
                missing.append(problem.field)
            elif not _follows(problem, before):
                found.append(problem)
            replaced.add(problem.field)
            _replace(values, problem.field)


def _follows(problem: UserError, doubtful: Iterable[str]) -> bool:
    """Whether a value is only wrong beside one that has been replaced: a sentence names what the value must fit."""
    words = re.findall(r"\w+", problem.expected)
    return any(path.rpartition(".")[2] in words for path in doubtful)


def doubted(mistakes: Iterable[UserError], groups: Iterable[str]) -> set[str]:
    """The options of which nothing can be said after mistakes in names: those that were meant by them."""
    found: set[str] = set()
    for mistake in mistakes:
        name = mistake.field.partition("@")[0]
        if "." not in name:
            name = nearest(name, [*groups, *Config.__dataclass_fields__]) or mistake.field
        option = set_by(name, groups)
        found |= {mistake.field} if option is None else {_meant(option) if option else option}
    return found


def set_by(name: str, groups: Iterable[str]) -> str | None:
    """The option that a command's name sets, or the node, if it is that of a group; None where it sets nothing."""
    role = name.startswith("checkpoints.")
    return NODES.get(name.partition(".")[0], "") if role or name in groups else name


def _meant(path: str) -> str:
    """The option whose name comes closest; the path itself where nothing does."""
    at: Any = Config
    names = path.split(".")
    for depth, name in enumerate(names):
        if not is_dataclass(at):  # any argument of an open slot
            break
        near = nearest(name, [each.name for each in fields(at)])
        if near is None:
            return path
        names[depth] = near
        at = get_type_hints(at)[near]
    return ".".join(names)


def _replace(values: Node, path: str) -> None:
    """Put the default in the place of a value that is wrong or missing; what no node has is taken out."""
    at: Any = values
    names = path.split(".")
    for depth, name in enumerate(names):
        option = ".".join(names[: depth + 1])
        inner = at.get(name)
        if isinstance(inner, dict) and depth + 1 < len(names):
            at = inner
        elif kind_of(option) is None:
            at.pop(name, None)
            return
        else:
            at[name] = _default_of(option)
            return


def _default_of(path: str) -> Any:
    at: Any = defaults()
    for name in path.split("."):
        at = at[name]
    return at
