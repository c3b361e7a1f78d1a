"""A command's overrides in, a checked `Config` out. Hydra only composes; every mistake is ours to word."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encdec_lightning.composition.local_checkpoints import local_or_hub
from encdec_lightning.config import NOT_GIVEN, OPEN_SLOTS, Config, Node, defaults, not_given, unknown_option
from encdec_lightning.errors import UserError, UserErrors, did_you_mean
from encdec_lightning.launch.draft import Draft, doubted, draft, set_by
from encdec_lightning.launch.hydra_nodes import check_hydra
from encdec_lightning.launch.presets import ROOT, check_presets, choices, conf_folder, roles
from encdec_lightning.launch.reading import Argument, is_text, quoted, read_argument, read_value
from encdec_lightning.rules import concerned, problems

Mistakes = list[UserError]


def compose_config(overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False) -> Config:
    """The config of a command; raises `UserErrors` with all mistakes that show without torch."""
    made = compose_draft(overrides, config_dirs, multirun)
    found = [*made.problems, *map(not_given, made.missing), *problems(made.config, made.doubtful)]
    if found:
        raise UserErrors(found)
    return made.config


def compose_draft(overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False) -> Draft:
    """The config of a command as far as it is right; raises `UserErrors` where nothing can be composed.

    What is missing only because of a mistake elsewhere, such as a mistyped name, is not called missing.
    """
    mistakes, usable = check_overrides(overrides, config_dirs, multirun)
    try:
        values, unresolved = _resolved(compose_raw(usable, config_dirs))
        made = draft(values)
    except UserErrors as errors:
        raise UserErrors([*mistakes, *errors.problems]) from None
    groups = choices(config_dirs)
    found = {str(each): each for each in (*mistakes, *unresolved.values(), *made.problems)}
    doubts = {*doubted(mistakes, groups), *unresolved}
    missing = tuple(path for path in made.missing if not concerned([path], doubts))
    named = [set_by(re.split("[=@]", line.lstrip("+~"))[0], groups) for line in usable]
    given = frozenset(each for each in named if each is not None)
    return Draft(made.config, tuple(found.values()), missing, made.doubtful | doubts, given)


def plain(composed: Any) -> Node:
    """Composed values as plain ones, interpolations resolved, values that were not given left out."""
    values, unresolved = _resolved(composed)
    if unresolved:
        raise UserErrors(unresolved.values())
    return values


def with_options(config: Config, options: Mapping[str, str], checkpoint: str | None) -> Config:
    """The config with options `node.name: value` replaced, read as in `encdec-train`; raises `UserErrors`."""
    values: Node = asdict(config)
    mistakes: Mistakes = []
    for name, text in options.items():
        try:
            mistake = unknown_option(name, text)
            if mistake is not None:
                raise mistake
            node, _, field = name.partition(".")
            values[node][field] = read_value(name, text)
        except UserError as error:
            mistakes.append(error)
    if checkpoint is not None:
        values["checkpoint"] = checkpoint
    made = draft(values)
    mistakes += [*made.problems, *problems(made.config, made.doubtful)]
    if mistakes:
        raise UserErrors(mistakes)
    return made.config


def check_overrides(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False
) -> tuple[Mistakes, list[str]]:
    """The mistakes in the names of options, groups and presets, and the overrides that are free of them.

    An override of an argument in an open slot comes back with `++`: nobody has to know which arguments a preset lists.
    """
    check_presets(config_dirs)
    known, names = choices(config_dirs), roles(config_dirs)
    mistakes: Mistakes = []
    usable: list[str] = []
    for line in overrides:
        try:
            rewritten = _checked(read_argument(line, multirun), line, known, names, multirun)
        except UserError as mistake:
            mistakes.append(mistake)
            continue
        taken_away = f"~{rewritten.partition('=')[0]}"  # by a null before: the later override counts
        usable = [*(each for each in usable if each != taken_away), rewritten]
    return mistakes, usable


def is_sweep(line: str) -> bool:
    """Whether an override gives several values."""
    return read_argument(line, sweeps=True).is_sweep


def _checked(argument: Argument, line: str, known: dict[str, list[str]], role_names: list[str], multirun: bool) -> str:
    """The override for Hydra; raises `UserError` when its name, or its preset, is none."""
    name, group = argument.name, argument.name.partition("@")[0]
    value = line.partition("=")[2] if argument.is_sweep else argument.value
    if argument.is_sweep and not multirun and group.partition(".")[0] in (*known, *Config.__dataclass_fields__):
        hint = f'; a text with commas stands in quotes, "{name}={quoted(value)}"' if is_text(name) else ""
        raise UserError(name, value, f"several values need --multirun{hint}")
    if group in known:
        return _checked_group(argument, group, known[group], multirun)
    if re.match(r"hydra\b", name):
        mistake = check_hydra(name, value, multirun)
        if mistake is not None:
            raise mistake
        is_open = name.startswith(("hydra.job.env_set.", "hydra.callbacks."))  # with names of the user's own
        return f"++{argument.body}" if is_open and not argument.is_deletion else argument.line
    if name.startswith("checkpoints."):
        role = name.removeprefix("checkpoints.")
        if role not in role_names:
            raise UserError(name, value, f"{_one_of(role_names)}{did_you_mean(role, role_names)}")
        return f"++{argument.body}"
    mistake = unknown_option(name, value)
    if mistake is not None:
        groups = did_you_mean(name, [*known, *Config.__dataclass_fields__, "run"])
        if name == "run":
            raise UserError(name, value, "a run is continued with encdec-train, and stands alone there")
        if "." not in name and groups:
            raise UserError(name, value, f"there is no such option or group{groups}")
        raise mistake
    slot = name.partition(".")[0]
    if argument.is_deletion:
        if slot not in OPEN_SLOTS:
            raise UserError(name, "~", "only open slots can be removed")
        return argument.line
    return f"++{argument.body}" if slot in OPEN_SLOTS and "." in name else argument.body


def _checked_group(argument: Argument, group: str, names: list[str], multirun: bool) -> str:
    """The override that chooses presets of a group."""
    if argument.is_deletion:
        return argument.line
    for chosen in argument.choices if argument.is_sweep else (argument.value,):
        for each in chosen if isinstance(chosen, list) else [chosen]:
            if each is not None and str(each) not in ("null", *names):
                expected = f"{_one_of(names)}{did_you_mean(str(each), names)}"
                if group in ("encoder", "decoder"):
                    expected += f"; any other checkpoint is set with model.{group}={each}"
                raise UserError(group, each, expected)
    if group == "hparams_search" and argument.value is not None and not multirun:
        raise UserError(group, argument.value, "a search needs --multirun")
    is_null = argument.value is None and not argument.is_sweep
    return f"~{argument.name}" if is_null else argument.body  # Hydra takes no null here


def _one_of(names: list[str]) -> str:
    return f"it must be one of {', '.join(names)}"


def register_defaults() -> None:
    """Let Hydra know `Config`'s own defaults, as plain values, so that every option can be overridden, and the
    resolver by which presets prefer a checkpoint's copy in the cache folder.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("local_or_hub", local_or_hub, replace=True)
    ConfigStore.instance().store(name="defaults", node=defaults())


def search_path(config_dirs: Sequence[Path]) -> list[str]:
    """The override that lets Hydra look into the users' own folders."""
    folders = ",".join(quoted(f"file://{folder.resolve()}") for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if config_dirs else []


def compose_raw(overrides: Sequence[str], config_dirs: Sequence[Path], with_hydra: bool = False) -> Any:
    """What Hydra makes of checked overrides, with its own node if that is wanted; raises `UserErrors`."""
    from hydra import compose, initialize_config_dir
    from yaml import MarkedYAMLError

    register_defaults()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return compose(ROOT, overrides=[*overrides, *search_path(config_dirs)], return_hydra_config=with_hydra)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            where = (mark.name, f" (line {mark.line + 1})") if mark else ("", "")
            raise UserErrors([UserError("preset", where[0], f"it is not YAML{where[1]}")]) from None
        except RecursionError:
            raise UserErrors([UserError("preset", ", ".join(overrides), "one of them includes itself")]) from None
        except Exception as error:  # whatever Hydra says: nothing of this project runs inside it
            raise UserErrors([restated(error)]) from None


def restated(error: Exception) -> UserError:
    """Hydra's error as one sentence: its innermost cause, first line."""
    from hydra.errors import MissingConfigException

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
        group, _, name = cause.missing_cfg_file.rpartition("/")
        there = f"{_one_of(list(cause.options))}" if cause.options else "there is no such preset"
        return UserError(group, name, there)
    lacking = re.search(r"Missing mandatory value: (checkpoints\.(\w+))", str(cause))
    if lacking:
        expected = f"this set of checkpoints has none for {lacking[2]}; choose another with checkpoints=, or set it"
        return UserError(lacking[1], None, expected)
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    key = getattr(cause, "full_key", None) or "configuration"
    value: object = NOT_GIVEN
    with contextlib.suppress(Exception):
        value = getattr(cause, "value", None)
    return UserError(str(key), value, text.rstrip("."))


def _resolved(composed: Any, prefix: str = "") -> tuple[Node, dict[str, UserError]]:
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
                values[key], inner = _resolved(value, f"{option}.")
                unresolved |= inner
            else:
                values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except RecursionError:
            unresolved[option] = UserError(option, "${...}", "its interpolation leads back to itself")
        except OmegaConfBaseException as error:
            unresolved[option] = restated(error)
    return values, unresolved
