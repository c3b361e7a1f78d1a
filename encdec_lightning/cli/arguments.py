"""What all commands' arguments have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from encdec_lightning.cli.environment import set_environment
from encdec_lightning.cli.help import options_help
from encdec_lightning.config import unknown_option
from encdec_lightning.errors import UserError, UserErrors, did_you_mean, exit_code, nearest
from encdec_lightning.files import kind_of
from encdec_lightning.launch.command_line.overrides import with_options
from encdec_lightning.launch.command_line.presets import check_yaml
from encdec_lightning.launch.garbage import collect_rarely
from encdec_lightning.launch.job.devices import MOVABLE
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

IN_A_FILE = 240
"""Characters of a table's line where it goes to a file or a pipe."""
RUN_FLAGS = {
    "--multirun": "a sweep: option=a,b,c runs every combination",
    "--cfg": "print the composed config and do nothing else",
}
REQUIRED = {
    "run": "the folder of a run must be given, run=<folder>",
    "input": "a file with sources must be given, input=<file> or input=-",
}
INSTEAD = {"run": ("predictions", "model")}
"""What may be given in place of a required argument."""


class Parser(argparse.ArgumentParser):
    """One whose refusals are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UserError("arguments", message, f"see {self.prog} --help")


def command(work: Callable[[], object]) -> int:
    """Do a command's work and give its exit code. Options may name modules that lie in the working folder."""
    set_environment()
    collect_rarely()
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

    @property
    def given(self) -> tuple[list[str], list[Path]]:
        """What a config is composed of."""
        return self.overrides, self.config_dirs


def parse_overrides(
    program: str, description: str, argv: Sequence[str] | None, flags: dict[str, str] | None = None
) -> Arguments:
    """Arguments of a command that composes a config; `flags` ({flag: help}) take the place of a run's."""
    parser = Parser(
        program, description=description, epilog=options_help(), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="option=value", help="options and groups, in any order; below")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], metavar="DIR", help="presets of your own")
    for flag, text in (flags or RUN_FLAGS).items():
        parser.add_argument(flag, *(["-m"] if flag == "--multirun" else []), action="store_true", help=text)
    found = parser.parse_intermixed_args(argv)
    folders = [Path(folder).expanduser() for folder in found.config_dir]
    for given, folder in zip(found.config_dir, folders, strict=True):
        if not given or kind_of(folder) != "folder":
            raise UserError("--config-dir", given, "there is no such folder")
    given = {flag for flag in flags or RUN_FLAGS if getattr(found, flag.removeprefix("--").replace("-", "_"))}
    return Arguments(found.overrides, folders, "--multirun" in given, "--cfg" in given, frozenset(given))


def refuse(mistakes: Iterable[UserError]) -> None:
    """Say each mistake as soon as it is found, once; raises `UserErrors`, which has nothing left to say, after any."""
    said: set[str] = set()
    for mistake in mistakes:
        if str(mistake) not in said:
            print(mistake, file=sys.stderr, flush=True)
            said.add(str(mistake))
    if said:
        raise UserErrors([])


def refuse_nothing(arguments: Arguments, purpose: str) -> None:
    """Say what must be given where nothing is."""
    if arguments.overrides:
        return
    files = "task.train=train.jsonl task.validation=validation.jsonl task.source=document task.target=summary"
    model = (
        "such as variant=bertshare, or any two checkpoints, model.encoder=<id or folder> model.decoder=<id or folder>"
    )
    also = "a first job that needs no files is experiment=quickstart, and --help lists all options"
    needs = {
        "task": f"give the task's files and columns, such as {files}",
        "variant": f"give the model, {model}",
        "trainer.max_steps": f"give the number of optimizer steps, such as trainer.max_steps=1000; {also}",
    }
    if purpose != "train":
        needs["trainer.max_steps"] = f"the number of optimizer steps may be given too; {also}"
    if purpose == "model":
        needs["task"] = f"the task may be given too, and is checked then, such as {files}"
    raise UserErrors(UserError(option, None, text) for option, text in needs.items())


def parse_named(
    program: str, description: str, argv: Sequence[str] | None, named: dict[str, str], nodes: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, str], list[UserError]]:
    """`name=value` arguments: those in `named` ({name: help}), options below `nodes` of the config, and mistakes."""
    width = max(len(name) for name in named) + 3
    epilog = "\n".join(f"  {name + '=':<{width}}{text}" for name, text in named.items())
    parser = Parser(program, description=description, epilog=epilog, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="name=value")
    given: dict[str, str] = {}
    options: dict[str, str] = {}
    mistakes: list[UserError] = []
    for line in parser.parse_args(argv).arguments:
        name, equals, value = line.partition("=")
        if not equals:
            mistakes.append(UserError("argument", line, "it must have the form name=value"))
        elif "\0" in value:
            mistakes.append(UserError(name, value, "it must not hold a zero byte"))
        elif name in given:
            mistakes.append(UserError(name, value, f"it is given twice, {name}={given[name]} too"))
        elif name in named and "*" not in name:
            given[name] = value
        elif name.partition(".")[0] in nodes and "." in name:
            unknown = unknown_option(name, value)
            if unknown is not None:
                mistakes.append(unknown)
            else:
                options[name] = value
        else:
            mistakes.append(UserError(name, value, f"there is no such argument{did_you_mean(name, named)}"))
    for name in [each for each in REQUIRED if each in named and not {each, *INSTEAD.get(each, ())} & given.keys()]:
        if not any(nearest(mistake.field, named) == name for mistake in mistakes):
            mistakes.append(UserError(name, None, REQUIRED[name]))
    return given, options, mistakes


def open_run(given: Mapping[str, str], options: Mapping[str, str], mistakes: list[UserError]) -> Run:
    """The run of `run=`, if it can be opened and used with the other arguments; raises `UserErrors` with all mistakes.

    `mistakes` are those found before.
    """
    found = list(mistakes)
    try:
        if "run" in given:
            run = opened_run(given["run"])
            import_nothing_of(run)
            values = run.config()
            if "checkpoint" in (values.get("model") or {}):
                expected = "it holds the texts of a model that was not trained here; to go on, give its command again"
                raise UserError("run", given["run"], expected)
    except UserError as mistake:
        raise UserErrors([mistake, *found]) from None
    if "run" not in given:
        raise UserErrors(found)
    try:
        with_options(convert(values), options, given.get("checkpoint"))
    except UserErrors as errors:
        found += errors.problems
    try:
        if "checkpoint" in given:
            run.checkpoint(given["checkpoint"])
    except UserError as mistake:
        found.append(mistake)
    if found:
        raise UserErrors(found)
    return run


def import_nothing_of(run: Run) -> None:
    """Look for no modules in the working folder where it lies in a run's: a stranger may have put some there."""
    if Path.cwd().is_relative_to(run.folder):
        sys.path[:] = [each for each in sys.path if each not in ("", str(Path.cwd()))]


def opened_run(folder: str) -> Run:
    """The run of a folder; raises `UserError` where there is none, or its config cannot be read in a moment."""
    config = Run(folder).config_file
    if kind_of(config) is not None:
        check_yaml("run", config)
    return Run.open(folder)


def run_argument(arguments: Arguments) -> tuple[str | None, dict[str, str]]:
    """The folder of `run=<folder>`, which continues a run, None when it is not given; and the devices that it moves to.

    Raises `UserError` for other options beside it.
    """
    folders = [line.removeprefix("run=") for line in arguments.overrides if line.startswith("run=")]
    if not folders:
        return None, {}
    others = [line for line in arguments.overrides if line.partition("=")[0] not in ("run", *MOVABLE)]
    others += [f"run={folder}" for folder in folders[1:]]
    others += [f"--config-dir {folder}" for folder in arguments.config_dirs]
    if others:
        expected = f"a run continues with its own frozen config, without {', '.join(others)}"
        raise UserError("run", folders[0], expected)
    given = (line.partition("=") for line in arguments.overrides if not line.startswith("run="))
    return folders[0], {name: value for name, _, value in given}


def table_width() -> int | None:
    """The characters that tables may be wide; None: those of the terminal."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else IN_A_FILE
