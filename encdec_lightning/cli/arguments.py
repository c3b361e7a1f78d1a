"""What all commands' arguments have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, did_you_mean, exit_code
from encdec_lightning.launch.presets import choices

RUN_FLAGS = {
    "--multirun": "a sweep: option=a,b,c runs every combination",
    "--cfg": "print the composed config and do nothing else",
}


BEFORE_TORCH = {
    "GOMP_SPINCOUNT": "10000",
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
"""What a process's environment says on CPU when torch is loaded, unless the user chooses otherwise.

OpenMP's threads wait some microseconds at barriers, then sleep: spinning for long beside one busy process on two cores
makes training ten times slower, sleeping at once a fifth slower. Of the code compiled for matrix products of each
shape, a step's is kept: batches differ in length, and the 1,024 shapes that torch keeps are half a gigabyte, scattered
between what a step allocates, and no faster.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("arguments", message, f"see {self.prog} --help")


def command(work: Callable[[], object]) -> int:
    """Do a command's work and give its exit code. Options may name modules that lie in the working folder."""
    for name, value in BEFORE_TORCH.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(name, value)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return exit_code(work)


@dataclass(frozen=True)
class Arguments:
    """A command line taken apart."""

    overrides: list[str]
    config_dirs: list[Path]
    multirun: bool
    show: bool
    flags: frozenset[str] = frozenset()


def parse_overrides(
    program: str, description: str, argv: Sequence[str] | None, flags: dict[str, str] | None = None
) -> Arguments:
    """Arguments of a command that composes a config; `flags` ({flag: help}) take the place of a run's."""
    parser = _Parser(
        program, description=description, epilog=_options_help(), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="option=value", help="options and groups, in any order; below")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], metavar="DIR", help="presets of your own")
    for flag, text in (flags or RUN_FLAGS).items():
        parser.add_argument(flag, *(["-m"] if flag == "--multirun" else []), action="store_true", help=text)
    found = parser.parse_intermixed_args(argv)
    folders = [Path(folder) for folder in found.config_dir]
    for folder in folders:
        if not folder.is_dir():
            raise UserError("--config-dir", str(folder), "there is no such folder")
    given = {flag for flag in flags or RUN_FLAGS if getattr(found, flag.removeprefix("--").replace("-", "_"))}
    return Arguments(found.overrides, folders, "--multirun" in given, "--cfg" in given, frozenset(given))


def parse_named(
    program: str, description: str, argv: Sequence[str] | None, named: dict[str, str], nodes: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """`name=value` arguments: those in `named` ({name: help}), and options below `nodes` of the config."""
    epilog = "\n".join(f"  {name + '=':<14}{text}" for name, text in named.items())
    parser = _Parser(program, description=description, epilog=epilog, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="name=value")
    given: dict[str, str] = {}
    options: dict[str, str] = {}
    for line in parser.parse_args(argv).arguments:
        name, equals, value = line.partition("=")
        if not equals:
            raise UserError("argument", line, "it must have the form name=value")
        if name in named:
            given[name] = value
        elif name.partition(".")[0] in nodes and "." in name:
            options[name] = value
        else:
            raise UserError(name, value, f"there is no such argument{did_you_mean(name, named)}")
    if "run" in named and "run" not in given:
        raise UserError("run", None, "the folder of a run must be given, run=<folder>")
    return given, options


def run_argument(overrides: Sequence[str]) -> str | None:
    """The folder of `run=<folder>`, which continues a run and stands alone; None when it is not given."""
    folders = [line.removeprefix("run=") for line in overrides if line.startswith("run=")]
    if not folders:
        return None
    others = [line for line in overrides if not line.startswith("run=")]
    if others or len(folders) > 1:
        given = ", ".join(others or [f"run={folder}" for folder in folders[1:]])
        raise UserError("run", folders[0], f"a run continues with its own frozen config, without {given}")
    return folders[0]


def _options_help() -> str:
    """Groups with their presets, and every option with its default."""
    groups = [f"  {group + '=':<18}{', '.join(names)}" for group, names in choices().items()]
    return "\n".join(["groups:", *groups, "", "options:", *_options(Config, "")])


def _options(node: Any, prefix: str) -> list[str]:
    hints = get_type_hints(node)
    lines = []
    for each in fields(node):
        if is_dataclass(hints[each.name]):
            lines += _options(hints[each.name], f"{prefix}{each.name}.")
        else:
            default = "" if each.default is MISSING else each.default
            lines.append(f"  {prefix}{each.name}={'null' if default is None else default}")
    return lines
