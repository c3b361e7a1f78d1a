"""A command's overrides in, a checked `Config` out. Hydra only composes; every mistake is ours to word."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from encdec_lightning.composition.local_checkpoints import local_or_hub
from encdec_lightning.config import NOT_GIVEN, OPEN_SLOTS, Config, Node, convert, defaults, unknown_option
from encdec_lightning.errors import UserError, UserErrors, did_you_mean
from encdec_lightning.launch.presets import ROOT, choices, conf_folder, roles

Mistakes = list[UserError]


def compose_config(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Config:
    """The config of a command; raises `UserErrors` with all mistakes: unknown options, groups, presets, values."""
    mistakes, usable = check_overrides(overrides, config_dirs)
    try:
        config = convert(plain(compose_raw(usable, config_dirs)))
    except UserErrors as errors:
        raise UserErrors([*mistakes, *errors.problems]) from None
    if mistakes:
        raise UserErrors(mistakes)
    return config


def plain(composed: Any) -> Node:
    """Composed values as plain ones, interpolations resolved, values that were not given left out."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserErrors([restated(error)]) from None
    values.pop("checkpoints", None)  # only a source of interpolations
    given: Node = _given(values)
    return given


def check_overrides(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False
) -> tuple[Mistakes, list[str]]:
    """The mistakes in the names of options, groups and presets, and the overrides that are free of them.

    An override of an argument in an open slot comes back with `++`: nobody has to know which arguments a preset lists.
    """
    known, names = choices(config_dirs), roles(config_dirs)
    mistakes: Mistakes = []
    usable: list[str] = []
    for line in overrides:
        try:
            mistake, rewritten = _check_override(line, known, names, multirun)
        except UserError as error:
            mistake, rewritten = error, line
        if mistake is None:
            taken_away = f"~{rewritten.partition('=')[0]}"  # by a null before: the later override counts
            usable = [*(each for each in usable if each != taken_away), rewritten]
        else:
            mistakes.append(mistake)
    return mistakes, usable


def is_sweep(line: str) -> bool:
    """Whether an override gives several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return bool(OverridesParser.create().parse_override(line).is_sweep_override())


def _check_override(
    line: str, known: dict[str, list[str]], role_names: list[str], multirun: bool
) -> tuple[UserError | None, str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        override = None
    if override is None or not override.key_or_group:
        raise UserError("argument", line, "it must have the form option=value")
    name, value = override.key_or_group, override.value()
    if override.is_sweep_override():
        value = line.partition("=")[2]
        if not multirun and name.partition(".")[0] in (*known, *Config.__dataclass_fields__):
            return UserError(name, value, "several values need --multirun"), line
    body = line.lstrip("+~")
    group = name.partition("@")[0]
    if group in known and not group.startswith("hydra"):
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [value]
        for choice in values if not override.is_delete() else []:
            names = choice if isinstance(choice, list) else [choice]
            wrong = [each for each in names if each is not None and str(each) not in ("null", *known[group])]
            if wrong:
                expected = f"{_one_of(known[group])}{did_you_mean(str(wrong[0]), known[group])}"
                if group in ("encoder", "decoder"):
                    expected += f"; any other checkpoint is set with model.{group}={wrong[0]}"
                return UserError(group, wrong[0], expected), line
        if override.is_delete():
            return None, line
        return None, f"~{name}" if value is None else body  # Hydra takes no null here
    if name.partition(".")[0].partition("/")[0] == "hydra":
        return _check_hydra(name, value), line
    if name.startswith("checkpoints."):
        role = name.removeprefix("checkpoints.")
        hint = did_you_mean(role, role_names)
        known_role = None if role in role_names else UserError(name, value, f"{_one_of(role_names)}{hint}")
        return known_role, f"++{body}"
    mistake = unknown_option(name, value)
    if mistake is not None:
        groups = did_you_mean(name, [*known, *Config.__dataclass_fields__, "run"])
        if "." not in name and groups:
            mistake = UserError(name, value, f"there is no such option or group{groups}")
        return mistake, line
    slot = name.partition(".")[0]
    if override.is_delete():
        return (None, line) if slot in OPEN_SLOTS else (UserError(name, "~", "only open slots can be removed"), line)
    return None, f"++{body}" if slot in OPEN_SLOTS and "." in name else body


def _one_of(names: list[str]) -> str:
    return f"it must be one of {', '.join(names)}"


def _check_hydra(name: str, value: object) -> UserError | None:
    """Hydra accepts unknown options of its own and goes on without a word."""
    from hydra.conf import HydraConf

    at: Any = HydraConf
    for part in name.replace("/", ".").split(".")[1:] or [""]:
        if not is_dataclass(at):
            return None
        known = {each.name: each.type for each in fields(at)}
        if part not in known:
            return UserError(name, value, f"Hydra has no such option{did_you_mean(part, known)}")
        at = known[part]
    return None


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
    return (
        [f"hydra.searchpath=[{','.join(f'file://{folder.resolve()}' for folder in config_dirs)}]"]
        if config_dirs
        else []
    )


def compose_raw(overrides: Sequence[str], config_dirs: Sequence[Path], with_hydra: bool = False) -> Any:
    """What Hydra makes of checked overrides, with its own node if that is wanted; raises `UserErrors`."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    register_defaults()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return compose(ROOT, overrides=[*overrides, *search_path(config_dirs)], return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserErrors([restated(error)]) from None
        except MarkedYAMLError as error:
            mark = error.problem_mark
            where = (mark.name, f" (line {mark.line + 1})") if mark else ("", "")
            raise UserErrors([UserError("preset", where[0], f"it is not YAML{where[1]}")]) from None


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


def _given(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _given(value) for key, value in values.items() if value != NOT_GIVEN}
    return values
