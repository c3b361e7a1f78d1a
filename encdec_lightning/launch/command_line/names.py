"""The names in a command's overrides: options, groups and presets. A mistake is returned, never raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encdec_lightning.config import OPEN_SLOTS, Config, unknown_option
from encdec_lightning.errors import UserError, did_you_mean, one_of
from encdec_lightning.launch.command_line.hydra_nodes import check_hydra
from encdec_lightning.launch.command_line.presets import check_presets, choices, roles
from encdec_lightning.launch.command_line.reading import Argument, is_text, quoted, read_argument

OPEN_IN_HYDRA = ("hydra.job.env_set.", "hydra.callbacks.")
"""Options of Hydra's below which names are the user's own."""


def check_overrides(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False
) -> tuple[list[UserError], list[str]]:
    """The mistakes in the names of options, groups and presets, and the overrides that are free of them.

    An override of an argument in an open slot comes back with `++`: nobody has to know which arguments a preset lists.
    """
    check_presets(config_dirs)
    names = Names(choices(config_dirs), roles(config_dirs), multirun)
    mistakes: list[UserError] = []
    usable: list[str] = []
    for line in overrides:
        try:
            argument = read_argument(line, multirun)
        except UserError as unreadable:
            mistakes.append(unreadable)
            continue
        mistake = names.mistake(argument)
        if mistake is not None:
            mistakes.append(mistake)
            continue
        rewritten = names.for_hydra(argument)
        taken_away = f"~{rewritten.partition('=')[0]}"  # by a null before: the later override counts
        usable = [*(each for each in usable if each != taken_away), rewritten]
    return mistakes, usable


@dataclass(frozen=True)
class Names:
    """The names that a command's overrides may have."""

    groups: dict[str, list[str]]
    """{group: names of its presets}"""
    roles: list[str]
    """What a set of checkpoints fills: `checkpoints.<role>`."""
    multirun: bool
    """Whether the command is a sweep, which takes several values."""

    def mistake(self, argument: Argument) -> UserError | None:
        """What is wrong with an argument's name, or with the preset that it names."""
        if argument.is_sweep and not self.multirun and argument.group.partition(".")[0] in self._ours:
            return _several_values(argument)
        if argument.group in self.groups:
            return self._wrong_preset(argument)
        if argument.is_pattern:
            return UserError(argument.name, argument.given, "glob() takes names of presets alone: give the values")
        if argument.is_of_hydra:
            return check_hydra(argument.name, argument.shown, self.multirun)
        if argument.name.startswith("checkpoints."):
            return self._wrong_role(argument)
        return self._wrong_option(argument)

    def for_hydra(self, argument: Argument) -> str:
        """The override for Hydra of an argument without a mistake."""
        if argument.group in self.groups:
            if argument.is_pattern:
                return f"{argument.name}={','.join(self._matching(argument))}"
            if argument.is_deletion:
                return argument.line
            is_null = argument.value is None and not argument.is_sweep
            return f"~{argument.name}" if is_null else argument.body  # Hydra takes no null here
        if argument.is_of_hydra:
            is_open = argument.name.startswith(OPEN_IN_HYDRA) and not argument.is_deletion
            return f"++{argument.body}" if is_open else argument.line
        if argument.name.startswith("checkpoints."):
            return f"++{argument.body}"
        if argument.is_deletion:
            return argument.line
        return f"++{argument.body}" if argument.slot in OPEN_SLOTS and "." in argument.name else argument.body

    @property
    def _ours(self) -> list[str]:
        return [*self.groups, *Config.__dataclass_fields__]

    def _matching(self, argument: Argument) -> list[str]:
        """The presets that a pattern of names means."""
        return list(argument.sweep.filter(self.groups[argument.group]))

    def _wrong_preset(self, argument: Argument) -> UserError | None:
        group, names = argument.group, self.groups[argument.group]
        if argument.is_deletion:
            return None
        if argument.is_pattern and not self._matching(argument):
            return UserError(group, argument.given, f"no preset has such a name; {one_of(names)}")
        for chosen in argument.choices if argument.is_sweep else (argument.value,):
            for each in chosen if isinstance(chosen, list) else [chosen]:
                if each is not None and str(each) not in ("null", *names):
                    expected = f"{one_of(names)}{did_you_mean(str(each), names)}"
                    if group in ("encoder", "decoder"):
                        expected += f"; any other checkpoint is set with model.{group}={each}"
                    return UserError(group, each, expected)
        if group == "hparams_search" and argument.value is not None and not self.multirun:
            return UserError(group, argument.value, "a search needs --multirun")
        return None

    def _wrong_role(self, argument: Argument) -> UserError | None:
        role = argument.name.removeprefix("checkpoints.")
        if role in self.roles:
            return None
        return UserError(argument.name, argument.shown, f"{one_of(self.roles)}{did_you_mean(role, self.roles)}")

    def _wrong_option(self, argument: Argument) -> UserError | None:
        name, value = argument.name, argument.shown
        unknown = unknown_option(name, value)
        if unknown is None:
            if argument.is_deletion and argument.slot not in OPEN_SLOTS:
                return UserError(name, "~", "only open slots can be removed")
            return None
        if name == "run":
            return UserError(name, value, "a run is continued with encdec-train, and stands alone there")
        near = did_you_mean(name, [*self._ours, "run"])
        if "." not in name and near:
            return UserError(name, value, f"there is no such option or group{near}")
        return unknown


def is_sweep(line: str) -> bool:
    """Whether an override gives several values."""
    return read_argument(line, sweeps=True).is_sweep


def _several_values(argument: Argument) -> UserError:
    name, value = argument.name, argument.given
    hint = f'; a text with commas stands in quotes, "{name}={quoted(value)}"' if is_text(name) else ""
    return UserError(name, value, f"several values need encdec-train --multirun{hint}")
