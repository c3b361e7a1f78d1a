"""One `option=value` of a command line: what Hydra's grammar reads in it, and else the text itself.

Lists, dictionaries, quotes, null, numbers, sweeps and interpolations keep the meaning that Hydra gives them. All other
text is taken as it stands, so that a path may hold any character.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from encdec_lightning.config import NOT_GIVEN, kind_of, unknown_option
from encdec_lightning.errors import UserError

FORM = "it must have the form option=value"
LONGEST = 20_000  # characters of a value: Hydra's grammar takes milliseconds for each hundred
DEEPEST = 30  # brackets inside brackets
PATHS = {
    *("folder", "init_from", "checkpoint", "data.cache"),
    *(f"task.{split}" for split in ("train", "validation", "test")),
    *(f"model.{side}{part}" for side in ("encoder", "decoder") for part in ("", "_vocabulary")),
}


@dataclass(frozen=True)
class Argument:
    """A command line's argument, in words that Hydra reads as it is meant."""

    prefix: str
    """Nothing, `+`, `++`, or `~` to delete."""
    name: str
    """An option, or a group with the package after its @."""
    given: str = field(compare=False)
    """The value as it was typed, quotes included; empty for a deletion."""
    text: str
    """The value for Hydra; empty for a deletion."""
    value: Any
    """The value, or None where there are several."""
    choices: tuple[Any, ...]
    """The values of a sweep over a few; else empty."""
    is_sweep: bool
    sweep: Any = field(default=None, compare=False)
    """What Hydra's grammar reads in several values: a choice, a range, an interval or a pattern of names."""

    @property
    def line(self) -> str:
        """The override for Hydra."""
        return f"{self.prefix}{self.body}"

    @property
    def body(self) -> str:
        """The override without its prefix."""
        return self.name if self.is_deletion and not self.text else f"{self.name}={self.text}"

    @property
    def group(self) -> str:
        """The name without a package."""
        return self.name.partition("@")[0]

    @property
    def slot(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    @property
    def shown(self) -> object:
        """The value for a sentence about it: several ones as they were typed."""
        return self.given if self.is_sweep else self.value

    @property
    def is_of_hydra(self) -> bool:
        """Whether it is an option, or a group, of Hydra's own."""
        return re.match(r"hydra\b", self.name) is not None

    @property
    def is_pattern(self) -> bool:
        """Whether its values are the presets whose names fit a pattern, as in `variant=glob(bert*)`."""
        return type(self.sweep).__name__ == "Glob"

    @property
    def is_interval(self) -> bool:
        """Whether its values are all numbers between two."""
        return type(self.sweep).__name__ == "IntervalSweep"

    @property
    def is_deletion(self) -> bool:
        """Whether the option is taken away."""
        return self.prefix == "~"


def read_argument(line: str, sweeps: bool = False) -> Argument:
    """The argument of a command line; raises `UserError` when it has no option or no value.

    `sweeps`: several values are wanted where they can be read; else a file that has such a name comes first.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in line):
        raise UserError("argument", line, "its bytes are no text in UTF-8")
    prefix = re.match(r"[+~]*", line)[0]  # type: ignore[index]  # it matches always
    name, equals, text = line.removeprefix(prefix).partition("=")
    if not name or prefix not in ("", "+", "++", "~") or not (equals or prefix == "~"):
        raise UserError("argument", line, FORM)
    check_size(name, text)
    if _parsed(f"{name}=1") is None:
        letters = "a name may hold letters from a to z, digits, _ and -"
        raise unknown_option(name, text) or UserError(name, text, letters)
    if not equals:
        return Argument(prefix, name, "", "", None, (), False)
    given, text = text, _readable(name, text, sweeps)
    override = _parsed(f"{name}={text}")
    several = override.is_sweep_override()
    choices = _choices(override) if several else ()
    value = None if several else override.value()
    if NOT_GIVEN in (value, *choices):
        raise UserError(name, NOT_GIVEN, "a value must be given; ??? stands for none")
    return Argument(prefix, name, given, text, value, choices, several, override.value() if several else None)


def check_size(name: str, text: str) -> None:
    """Raise `UserError` for a name or a value that is too long, or nested too deeply, to be meant."""
    if max(len(name), len(text)) > LONGEST:
        raise UserError(name, text, f"it must have at most {LONGEST:,} characters")
    depth = deepest = 0
    for sign in text:
        depth += (sign in "[{(") - (sign in "]})")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise UserError(name, text, f"it must have at most {DEEPEST} brackets inside each other, not {deepest}")


def read_value(name: str, text: str) -> Any:
    """The one value of an option that is read outside a config; raises `UserError` when there are several."""
    found = read_argument(f"{name}={text}")
    if found.is_sweep:
        raise UserError(name, text, "it must be one value")
    return found.value


def quoted(text: str) -> str:
    """The text as Hydra reads it back letter by letter."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def _readable(name: str, text: str, sweeps: bool) -> str:
    """The text in a form that Hydra reads as it is meant."""
    override = _parsed(f"{name}={text}")
    if override is None:
        if not sweeps and _is_file(name, text):
            return quoted(text)
        found = _elements(name, text, sweeps)
        if text.startswith("[") and text.endswith("]") and not is_text(name):
            found = f"[{','.join(_readable('', part.strip(), sweeps) for part in _split(text[1:-1]))}]"
        return quoted(text) if found is None or _parsed(f"{name}={found}") is None else found
    if override.is_sweep_override():
        if not sweeps and _is_file(name, text):
            return quoted(text)
        return _elements(name, text, sweeps) or text
    value = override.value()
    if isinstance(value, list | dict):
        return quoted(text) if _is_file(name, text) else text
    is_trimmed = isinstance(value, str) and value != text and value == text.strip(" \t")
    return quoted(text) if is_text(name) and (is_trimmed or isinstance(value, bool | int | float)) else text


def _elements(name: str, text: str, sweeps: bool) -> str | None:
    """A sweep over several values, each of them readable; None where no comma separates any."""
    parts = [part.strip() for part in _split(text)]
    return ",".join(_readable(name, part, sweeps) for part in parts) if len(parts) > 1 and all(parts) else None


def is_text(name: str) -> bool:
    """Whether an option's value is a text, whatever it looks like."""
    kind = kind_of(name)
    return name.startswith("checkpoints.") or kind is str or set(get_args(kind)) == {str, NoneType}


def _is_file(name: str, text: str) -> bool:
    """Whether the option is a path, and there is a file of exactly this name, or a folder around it that has a comma.

    Of two files side by side (`a.en+a.de`), both must be there.
    """
    if name not in PATHS and not name.startswith("checkpoints."):
        return False
    try:
        around = [folder for folder in Path(text).parents if "," in str(folder)]
        pair = text.split("+")
        return bool(text) and (any(each.exists() for each in (Path(text), *around)) or all(map(os.path.exists, pair)))
    except (OSError, ValueError):  # too long a name, or one that no file can have
        return False


def parts_of(text: str) -> list[str]:
    """The paths in a text, which commas separate that are not in quotes; one that is there may have commas itself."""
    with suppress(OSError, ValueError):  # too long a name, or one that no file can have
        if Path(text).exists():
            return [text] if text else []
    parts = (part.strip() for part in _split(text))
    return [
        part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"" else part for part in parts if part
    ]


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no quotes and no brackets."""
    parts, quote, depth = [""], "", 0
    for before, letter in pairwise(f" {text}"):
        if before == "\\":
            pass  # an escaped letter
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth = max(depth - 1, 0)
        if letter == "," and not quote and not depth and before != "\\":
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _choices(override: Any) -> tuple[Any, ...]:
    """The values of a choice; nothing for other sweeps, whose values are numbers or not known yet."""
    values = getattr(override.value(), "list", ()) if override.is_choice_sweep() else ()
    return tuple(getattr(each, "text", each) for each in values)


@lru_cache(maxsize=1000)
def _parsed(line: str) -> Any:
    """Hydra's override, or None where its grammar has no such line, or Python cannot hold its value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(line)
    except (HydraException, ValueError, RecursionError):  # a number of thousands of digits
        return None
