"""Whether a plain value is of the kind that a class's annotations ask for."""

from __future__ import annotations

import functools
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from encdec_lightning.errors import did_you_mean

OURS = {"precision": ("auto",)}  # values of the project's own, resolved before a class is made
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "a dictionary",
}


def wrong_kind(target: type, name: str, value: Any) -> str | None:
    """What an argument of a class must be, in words, where `value` is something else; None where it fits."""
    hint = _hints(target).get(name, Any)
    adapter = _adapter(hint)
    if adapter is None or (isinstance(value, str) and value in OURS.get(name, ())):
        return None
    for each in (value, tuple(value)) if isinstance(value, list) else (value,):  # a config has no tuples
        try:
            adapter.validate_python(each, strict=True)
        except ValidationError:
            continue
        return None
    return f"it must be {_in_words(hint)}{did_you_mean(str(value), map(str, _literals(hint)))}"


@functools.cache
def _hints(target: type) -> dict[str, Any]:
    """The annotations of a class's arguments; where they say anything goes, those of a class that it is made from."""
    found: dict[str, Any] = {}
    for kind in reversed(target.__mro__):
        try:
            hints = get_type_hints(kind.__init__)  # type: ignore[misc]  # of this very class
        except (NameError, TypeError, AttributeError):  # annotations that name what is not there
            continue
        found |= {name: hint for name, hint in hints.items() if hint is not Any or name not in found}
    return found


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What checks a value, or None for annotations that say too little or too much."""
    try:
        return None if hint is Any else TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, TypeError, NameError):
        return None


def _parts(hint: Any) -> list[Any]:
    """The kinds of a union, one inside another too."""
    if get_origin(hint) in (Union, UnionType):
        return [part for each in get_args(hint) for part in _parts(each)]
    return [hint]


def _literals(hint: Any) -> list[Any]:
    return [value for part in _parts(hint) if get_origin(part) is Literal for value in get_args(part)]


def _in_words(hint: Any) -> str:
    parts = _parts(hint)
    choices = [str(value) for value in _literals(hint)]
    words = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    for part in parts:
        kind = get_origin(part) or part
        if kind is not Literal:
            words.append(WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}")
    if WORDS[float] in words:  # which a whole number is too
        words = [word for word in words if word != WORDS[int]]
    last = ["null"] if "null" in words else []
    return " or ".join([*dict.fromkeys(word for word in words if word != "null"), *last])
