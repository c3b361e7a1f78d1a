"""Malformed inputs of every kind for the five commands: from the schema, from signatures, from grammars, from a table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from encdec_lightning.config import OPEN_SLOTS, Config

LONG = "x" * 100_000
VALUES: dict[str, list[str]] = {
    "int": ["1.5", "many", "-1", "-99999999999999999999999", "1" + "0" * 30, "1" + "0" * 5000, "nan", "inf", "true", "[1]", "{a: 1}", "", "'5'", "1e400", "0x10", LONG],
    "float": ["nan", "inf", "-inf", "many", "-1", "1e400", "-1e-400", "true", "[0.5]", "{a: 1}", "", "'0.5'", "1" + "0" * 400, LONG],
    "bool": ["maybe", "1", "0", "null", "[true]", "", "nan", "'true'"],
    "text": ["[a]", "{a: b}", "null", "", LONG, "a\0b", "a\nb", "${oc.env:HOME}", "${nothing.here}", "${", "a=b=c", "???", "../" * 2000],
    "list": ["a", "[null]", "[1]", "[[a]]", "{a: 1}", "''", "[]", "[" * 500, "[" + "a," * 20_000 + "a]", "[nan]"],
    "choice": ["nonsense", "5", "true", "[a]", "{a: 1}", "", "nan", LONG],
    "node": ["5", "text", "[1, 2]", "true", "nan", "{_target_: 5}", "{_target_: os.system}", "{_target_: nowhere.Thing}", "{_target_: ''}"],
}  # fmt: skip
"""What is written for an option, by the kind that the option is of; some of it is right for one or another."""
SLOTS = {
    "trainer": "lightning.Trainer",
    "optimizer": "torch.optim.AdamW",
    "callbacks.mine": "lightning.pytorch.callbacks.ModelCheckpoint",
    "callbacks.stop": "lightning.pytorch.callbacks.EarlyStopping",
    "logger.mine": "lightning.pytorch.loggers.CSVLogger",
}
ANY = ["many", "nan", "-inf", "-1", "1.5", "[1, 2, 3]", "{a: 1}", "null", "''", "true", "abc", "1" + "0" * 30, "{_target_: nowhere.X}", "/dev/null/x", LONG]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command with something wrong, or odd, in its arguments or in a file that it reads."""

    name: str
    command: str
    argv: tuple[str, ...]
    """Words of the command line; `{world}` stands for the folder of the good files."""
    make: Callable[[Path], object] = lambda folder: None
    """Makes the files of the case in the working folder."""
    fields: tuple[str, ...] = ()
    """Options of which one must stand in what is said, if anything is said."""
    refused: bool = False
    """Whether it means nothing, so that it must not be accepted."""


def options(node: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of the schema and its type."""
    hints = get_type_hints(node)
    for each in fields(node):
        if is_dataclass(hints[each.name]):
            yield from options(hints[each.name], f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", hints[each.name]


def kind_of(hint: Any) -> str:
    """The key of `VALUES` for a type."""
    parts = [part for part in (get_args(hint) or (hint,)) if part is not NoneType]
    if get_origin(hint) is Literal:
        return "choice"
    first = parts[0]
    if get_origin(first) is Literal:
        return "choice"
    return {int: "int", float: "float", bool: "bool", str: "text"}.get(
        first, "list" if get_origin(first) is list else "node"
    )


def from_schema() -> list[Case]:
    """Each option with each value of its kind."""
    found = []
    for option, hint in options():
        kind = "node" if option in OPEN_SLOTS else kind_of(hint)
        for value in VALUES[kind]:
            found.append(Case(f"{option}={value[:20]!r}", "train", (f"{option}={value}",), fields=(option,)))
    for option, hint in options():
        if kind_of(hint) == "float":
            found += [
                Case(f"{option}={value}", "train", (f"{option}={value}",), fields=(option,), refused=True)
                for value in (".nan", "-.inf", "nan", "inf")
            ]
    return found


def from_signatures() -> list[Case]:
    """Each argument of what fills the open slots with values of every kind."""
    found = []
    for slot, path in SLOTS.items():
        module, _, name = path.rpartition(".")
        target = getattr(importlib.import_module(module), name)
        given = () if slot in ("trainer", "optimizer") else (f"{slot}._target_={path}",)
        for argument in inspect.signature(target).parameters:
            for value in ANY:
                found.append(
                    Case(
                        f"{slot}.{argument}={value[:20]!r}",
                        "train",
                        (*given, f"{slot}.{argument}={value}"),
                        fields=(slot,),
                    )
                )
    return found
