"""What `--help` says below the arguments: the groups of presets, and every option with its default and its meaning."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from encdec_lightning.config import Config
from encdec_lightning.launch.presets import choices

NARROWEST = 60  # columns


def options_help() -> str:
    """The groups with their presets, and every option, wrapped to the terminal's width."""
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    lines = [
        "groups, each with its presets (YAML files; --config-dir DIR adds files of yours, DIR/<group>/<preset>.yaml):"
    ]
    for group, names in choices().items():
        lines += textwrap.wrap(f"{group}={', '.join(names)}", width, **_hanging(2, 6), break_on_hyphens=False)
    lines += ["", "options, each with its default:"]
    lines += [
        line for name, default, text in _options(Config, "") for line in _option(f"{name}={default}", text, width)
    ]
    return "\n".join(lines)


def _option(option: str, text: str, width: int) -> list[str]:
    return [f"  {option}", *textwrap.wrap(text, width, **_hanging(6, 6))]


def _hanging(first: int, further: int) -> dict[str, Any]:
    return {"initial_indent": " " * first, "subsequent_indent": " " * further}


def _options(node: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(path, default, meaning) of every option below a node of the config."""
    hints, meanings = get_type_hints(node), _meanings(node)
    for each in fields(node):
        if is_dataclass(hints[each.name]):
            yield from _options(hints[each.name], f"{prefix}{each.name}.")
        else:
            default = "" if each.default is MISSING else _written(each.default)
            yield f"{prefix}{each.name}", default, meanings.get(each.name, "")


def _written(value: object) -> str:
    """A default as it is typed."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _meanings(node: type) -> dict[str, str]:
    """{field: its docstring}, which Python does not keep."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(node))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = re.sub(r"\s+", " ", str(text.value.value))
    return found
